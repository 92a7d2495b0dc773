//! A GGUF header is untrusted input. For any bytes, reading it terminates, takes memory in proportion
//! to the file's size, and returns a header or an error.
//!
//! `cargo +nightly fuzz run gguf_header`

#![no_main]

use std::io::Cursor;

use libfuzzer_sys::fuzz_target;
use rbee_hive::models::gguf::{Arrays, Header};

fuzz_target!(|bytes: &[u8]| {
    for arrays in [Arrays::Skip, Arrays::Keep] {
        if let Ok(header) = Header::from_reader(Cursor::new(bytes), bytes.len() as u64, arrays) {
            let _ = (header.architecture(), header.quantization(), header.parameter_count());
        }
    }
});
