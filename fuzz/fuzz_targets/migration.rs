#![no_main]
libfuzzer_sys::fuzz_target!(|bytes: &[u8]| tail_nbd::migration::wire::fuzz_migration(bytes));
