#![no_main]
libfuzzer_sys::fuzz_target!(|bytes: &[u8]| tail_nbd::control::fuzz::fuzz_command(bytes));
