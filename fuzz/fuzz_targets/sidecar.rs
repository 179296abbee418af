#![no_main]
libfuzzer_sys::fuzz_target!(|bytes: &[u8]| tail_nbd::sidecar::fuzz_sidecar(bytes));
