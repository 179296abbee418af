#![no_main]
libfuzzer_sys::fuzz_target!(|bytes: &[u8]| tail_nbd::upgrade::fuzz::fuzz_state(bytes));
