//! What an export offers, and so which flags a request may have: one table for both, so that nothing is
//! accepted that was not offered (NBD protocol, "Command flags").

use super::wire::{EXTENDED_REQUEST_BYTES, REQUEST_BYTES, command_flag, command_type, export_flag};
use serde::{Deserialize, Serialize};

/// How requests and replies look. It is agreed on in the handshake.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Style {
    /// Compact requests, simple replies: an error has no text, and a read is answered in one piece.
    #[default]
    Simple,
    /// Compact requests; what has data is answered in chunks.
    Structured,
    /// Requests with 64-bit lengths; everything is answered in chunks.
    Extended,
}

impl Style {
    /// True when a read is answered in chunks.
    pub fn has_chunks(self) -> bool {
        self != Self::Simple
    }

    /// Length of a request header, in bytes.
    pub fn request_bytes(self) -> usize {
        if self == Self::Extended { EXTENDED_REQUEST_BYTES } else { REQUEST_BYTES }
    }
}

/// What clients are told of TLS (proto.md, "TLS support": NOTLS, SELECTIVETLS without an export that is only there
/// through TLS, and FORCEDTLS). It holds for the whole of a connection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Tls {
    /// There is none
    #[default]
    Off,
    /// Clients that ask for it get it
    Offered,
    /// Without it nobody gets anything
    Required,
}

/// A command of the protocol.
struct Row {
    /// Its number, which is also its place in the table.
    command: u16,
    /// The export flag that offers it; [`export_flag::HAS_FLAGS`] for what every export has.
    offered_by: u16,
    /// The flags that a request may have besides FUA, and the export flag that offers each.
    flags: &'static [(u16, u16)],
    /// With extended headers the request says that it has a payload.
    payload: bool,
}

const fn row(command: u16, offered_by: u16, flags: &'static [(u16, u16)]) -> Row {
    Row { command, offered_by, flags, payload: command == command_type::WRITE }
}

const TABLE: [Row; 8] = [
    row(command_type::READ, export_flag::HAS_FLAGS, &[(command_flag::DF, export_flag::SEND_DF)]),
    row(command_type::WRITE, export_flag::HAS_FLAGS, &[]),
    row(command_type::DISC, export_flag::HAS_FLAGS, &[]),
    row(command_type::FLUSH, export_flag::SEND_FLUSH, &[]),
    row(command_type::TRIM, export_flag::SEND_TRIM, &[]),
    row(command_type::CACHE, export_flag::SEND_CACHE, &[]),
    row(
        command_type::WRITE_ZEROES,
        export_flag::SEND_WRITE_ZEROES,
        &[
            (command_flag::NO_HOLE, export_flag::SEND_WRITE_ZEROES),
            (command_flag::FAST_ZERO, export_flag::SEND_FAST_ZERO),
        ],
    ),
    // The context that was chosen offers it; `request.rs` looks at that.
    row(command_type::BLOCK_STATUS, export_flag::HAS_FLAGS, &[(command_flag::REQ_ONE, export_flag::HAS_FLAGS)]),
];

const _: () = {
    let mut index = 0;
    while index < TABLE.len() {
        assert!(TABLE[index].command as usize == index);
        index += 1;
    }
};

/// What an export can do. It depends on nothing but the negotiation and whether it may be changed (safety rule 16).
///
/// FAST_ZERO is always decidable here: one fallocate call either makes the zeroes without writing any, or says
/// at once and without a trace that the file system cannot.
pub const fn export_flags(style: Style, read_only: bool) -> u16 {
    let df = if matches!(style, Style::Simple) { 0 } else { export_flag::SEND_DF };
    let change = if read_only {
        export_flag::READ_ONLY
    } else {
        export_flag::SEND_FUA | export_flag::SEND_TRIM | export_flag::SEND_WRITE_ZEROES | export_flag::SEND_FAST_ZERO
    };
    export_flag::HAS_FLAGS
        | export_flag::SEND_FLUSH
        | change
        | export_flag::CAN_MULTI_CONN
        | export_flag::SEND_CACHE
        | df
}

/// Which flags a request may have; `None` when there is no such command. What would change an export that may not
/// be changed is refused for that, whatever its flags.
pub fn allowed_flags(command: u16, style: Style) -> Option<u16> {
    MASKS[style as usize].get(usize::from(command)).copied().flatten()
}

/// The table, worked out for each style.
const MASKS: [[Option<u16>; TABLE.len()]; 3] = [masks(Style::Simple), masks(Style::Structured), masks(Style::Extended)];

const fn masks(style: Style) -> [Option<u16>; TABLE.len()] {
    let offered = export_flags(style, false);
    let mut masks = [None; TABLE.len()];
    let mut index = 0;
    while index < TABLE.len() {
        let row = &TABLE[index];
        if offered & row.offered_by != 0 {
            // FUA may come with every command (NBD protocol, "Command flags").
            let mut mask = if offered & export_flag::SEND_FUA != 0 { command_flag::FUA } else { 0 };
            let mut flag = 0;
            while flag < row.flags.len() {
                if offered & row.flags[flag].1 != 0 {
                    mask |= row.flags[flag].0;
                }
                flag += 1;
            }
            if row.payload && matches!(style, Style::Extended) {
                mask |= command_flag::PAYLOAD_LEN;
            }
            masks[index] = Some(mask);
        }
        index += 1;
    }
    masks
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_follow_from_what_is_offered() {
        use command_flag::{DF, FAST_ZERO, FUA, NO_HOLE, PAYLOAD_LEN, REQ_ONE};
        for (command, style, wanted) in [
            (command_type::READ, Style::Simple, Some(FUA)),
            (command_type::READ, Style::Structured, Some(FUA | DF)),
            (command_type::READ, Style::Extended, Some(FUA | DF)),
            (command_type::WRITE, Style::Structured, Some(FUA)),
            (command_type::WRITE, Style::Extended, Some(FUA | PAYLOAD_LEN)),
            (command_type::WRITE_ZEROES, Style::Simple, Some(FUA | NO_HOLE | FAST_ZERO)),
            (command_type::BLOCK_STATUS, Style::Extended, Some(FUA | REQ_ONE)),
            (command_type::TRIM, Style::Extended, Some(FUA)),
            (8, Style::Extended, None),
            (u16::MAX, Style::Simple, None),
        ] {
            assert_eq!(allowed_flags(command, style), wanted, "command {command}, {style:?}");
        }
    }

    #[test]
    fn a_flag_of_the_protocol_that_is_not_offered_is_in_no_mask() {
        assert_eq!(export_flags(Style::Simple, false) & export_flag::SEND_DF, 0);
        for style in [Style::Simple, Style::Structured, Style::Extended] {
            let all =
                (0..=u16::MAX).filter_map(|command| allowed_flags(command, style)).fold(0, |all, mask| all | mask);
            let known = if style == Style::Simple { 0b01_1011 } else { 0b01_1111 };
            let known = if style == Style::Extended { known | command_flag::PAYLOAD_LEN } else { known };
            assert_eq!(all, known, "{style:?}");
        }
    }
}
