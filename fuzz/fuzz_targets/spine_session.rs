#![no_main]
libfuzzer_sys::fuzz_target!(|bytes: &[u8]| spine::fuzz::session(bytes));
