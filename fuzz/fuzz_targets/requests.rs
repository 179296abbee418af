#![no_main]
libfuzzer_sys::fuzz_target!(|bytes: &[u8]| tail_nbd::nbd::fuzz::fuzz_requests(bytes));
