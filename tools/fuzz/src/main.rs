//! A fuzzer for one decoder, which the environment variable `DECODER` names. It tells how often inputs were accepted: a run in
//! which none was has tested refusals only.
#![no_main]

mod decoders;

use std::sync::{
    OnceLock,
    atomic::{AtomicU64, Ordering},
};

use libfuzzer_sys::fuzz_target;

static DECODER: OnceLock<fn(&[u8]) -> bool> = OnceLock::new();
static ACCEPTED: AtomicU64 = AtomicU64::new(0);

fuzz_target!(|bytes: &[u8]| {
    let decode = DECODER.get_or_init(|| {
        let wanted = std::env::var("DECODER").unwrap_or_default();
        let found = decoders::DECODERS.iter().find(|(name, _)| *name == wanted);
        let (_, decode) = found.unwrap_or_else(|| panic!("there is no decoder {wanted:?}"));
        *decode
    });
    if decode(bytes) {
        let accepted = ACCEPTED.fetch_add(1, Ordering::Relaxed) + 1;
        if accepted.is_power_of_two() {
            eprintln!("accepted: {accepted}");
        }
    }
});
