//! A guest of one sector: it writes `B` to its serial port when it has started from its disc, and then
//! does what it reads there.

/// Ends by ACPI, as a guest's own shutdown does.
pub const SHUT_DOWN: &[u8] = b"q";
/// Reports a panic through pvpanic.
pub const PANIC: &[u8] = b"p";
/// Reads a sector of the disc, and writes `B` once it has it.
pub const READ: &[u8] = b"r";

/// The sector, in 16-bit code:
///
/// ```text
///  0 cli                                  33 shut_down: out 0x604, 0x2000   S5 (SeaBIOS puts PM1a there)
///  1 start: out 0x3f8, 'B'                40            jmp $
///  7 poll:  in 0x3fd; test 1; jz poll     42 panic:     out 0x505, 1        pvpanic
/// 15        in al, 0x3f8                  48            jmp $
/// 19        'q' → shut_down               50 read:      int 0x13: AH=02, sector 2 of disc 0x80 → 0:7e00
/// 23        'p' → panic                   64            jmp start
/// 27        'r' → read
/// 31        jmp poll
/// ```
pub fn boot_sector() -> [u8; 512] {
    let code = [
        0xfa, 0xba, 0xf8, 0x03, 0xb0, 0x42, 0xee, 0xba, 0xfd, 0x03, 0xec, 0xa8, 0x01, 0x74, 0xf8, 0xba, 0xf8, 0x03,
        0xec, 0x3c, 0x71, 0x74, 0x0a, 0x3c, 0x70, 0x74, 0x0f, 0x3c, 0x72, 0x74, 0x13, 0xeb, 0xe6, 0xba, 0x04, 0x06,
        0xb8, 0x00, 0x20, 0xef, 0xeb, 0xfe, 0xba, 0x05, 0x05, 0xb0, 0x01, 0xee, 0xeb, 0xfe, 0xb8, 0x01, 0x02, 0xb9,
        0x02, 0x00, 0xba, 0x80, 0x00, 0xbb, 0x00, 0x7e, 0xcd, 0x13, 0xeb, 0xbf,
    ];
    let mut sector = [0; 512];
    sector[..code.len()].copy_from_slice(&code);
    sector[510..].copy_from_slice(&[0x55, 0xaa]);
    sector
}
