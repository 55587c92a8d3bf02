//! Any bytes as the document of a cache, whole and as the records in an image of four layers.
#![no_main]

use kiln_cache::remote::{CacheLayer, Document};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let layers = |count: usize| {
        (0..count).map(|number| CacheLayer { parent: number.checked_sub(1), ..CacheLayer::default() }).collect::<Vec<_>>()
    };
    for document in [Document::parse(bytes), Document::parse_records(layers(4), bytes)].into_iter().flatten() {
        document.entries();
        let sorted = document.sorted();
        let again = Document::parse(&sorted.to_json()).expect("what was written");
        assert_eq!(again.sorted(), sorted);
    }
});
