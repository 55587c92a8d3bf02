use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;

use super::*;
use crate::remote::Entry;

/// The example of the format's description.
const EXAMPLE: &str = r#"{"layers":[
   {"blob":"sha256:b0","parent":-1},
   {"blob":"sha256:b1"},
   {"blob":"sha256:b2","parent":1,"annotations":{"mediaType":"application/vnd.oci.image.layer.v1.tar+gzip","diffID":"sha256:d2","size":321,"createdAt":"2026-01-02T03:04:05Z"}}],
 "records":[
   {"digest":"sha256:k0"},
   {"digest":"sha256:k1","layers":[{"layer":1,"createdAt":"2026-01-02T03:04:05Z"}],"inputs":[[{"link":0},{"selector":"sha256:s","link":2}]]},
   {"digest":"sha256:k2","chains":[{"layers":[0,2],"createdAt":"0001-01-01T00:00:00Z"}]}]}"#;

#[test]
fn the_example_means_what_its_description_says() {
    let document = Document::parse(EXAMPLE.as_bytes()).unwrap();
    let parents: Vec<_> = document.layers().iter().map(|layer| layer.parent).collect();
    // What is not written is layer 0, and not none.
    assert_eq!(parents, [None, Some(0), Some(1)]);
    assert_eq!(document.chain(&ResultLayers::Top(2)), [0, 1, 2]);
    assert_eq!(document.chain(&ResultLayers::Chain(vec![0, 2])), [0, 2]);
    let annotations = document.layers()[2].annotations.as_ref().unwrap();
    assert_eq!((annotations.size, annotations.created), (321, Some(1_767_323_045_000_000_000)));
    let results: Vec<_> = document.records().iter().map(|record| record.results.clone()).collect();
    let top = CacheResult { layers: ResultLayers::Top(1), created: Some(1_767_323_045_000_000_000) };
    // Go writes the year 1 for no time.
    let chain = CacheResult { layers: ResultLayers::Chain(vec![0, 2]), created: None };
    assert_eq!(results, [vec![], vec![top], vec![chain]]);
    let links: Vec<_> = document.records()[1].inputs[0].iter().map(|link| (link.record, &*link.selector)).collect();
    assert_eq!(links, [(0, ""), (2, "sha256:s")]);
}

#[test]
fn the_order_does_not_depend_on_how_it_was_gathered() {
    let document = Document::parse(EXAMPLE.as_bytes()).unwrap().sorted();
    let text = String::from_utf8(document.to_json()).unwrap();
    let expected = r#"{"layers":[{"blob":"sha256:b0","parent":-1},{"blob":"sha256:b1"},{"blob":"sha256:b2","parent":1,"annotations":{"mediaType":"application/vnd.oci.image.layer.v1.tar+gzip","diffID":"sha256:d2","size":321,"createdAt":"2026-01-02T03:04:05Z"}}],"records":[{"digest":"sha256:k0"},{"layers":[{"layer":1,"createdAt":"2026-01-02T03:04:05Z"}],"digest":"sha256:k1","inputs":[[{"link":0},{"selector":"sha256:s","link":2}]]},{"chains":[{"layers":[0,2]}],"digest":"sha256:k2"}]}"#;
    assert_eq!(text, expected);
    let mixed = r#"{"layers":[{"blob":"sha256:b2","parent":3,"annotations":{"mediaType":"application/vnd.oci.image.layer.v1.tar+gzip","diffID":"sha256:d2","size":321,"createdAt":"2026-01-02T03:04:05Z"}},
        {"blob":"sha256:b0","parent":-1},{"blob":"sha256:b0","parent":-1},{"blob":"sha256:b1","parent":2}],
     "records":[{"digest":"sha256:k2","chains":[{"layers":[2,0]}]},{"digest":"sha256:k0"},
        {"digest":"sha256:k1","layers":[{"layer":1,"createdAt":"2020-01-02T03:04:05Z"}],"inputs":[[{"selector":"sha256:s","link":0},{"link":1}]]},
        {"digest":"sha256:k1","layers":[{"layer":3,"createdAt":"2026-01-02T03:04:05Z"}],"inputs":[[{"link":1},{"link":1},{"selector":"sha256:s","link":0}]]}]}"#;
    assert_eq!(String::from_utf8(Document::parse(mixed.as_bytes()).unwrap().sorted().to_json()).unwrap(), expected);
}

#[test]
fn what_is_not_there_or_in_a_circle_is_refused() {
    for (text, expected) in [
        (r#"{"layers":[{"parent":1}]}"#, "layer 1, which"),
        (r#"{"layers":[{"parent":-2}]}"#, "layer -2, which"),
        (r#"{"layers":[{}]}"#, "circle of layers"),
        (r#"{"layers":[{"parent":-1},{"parent":2},{"parent":1}]}"#, "circle of layers"),
        (r#"{"records":[{"layers":[{"layer":0}]}]}"#, "layer 0, which"),
        (r#"{"layers":[{"parent":-1}],"records":[{"layers":[{"layer":-1}]}]}"#, "layer -1, which"),
        (r#"{"layers":[{"parent":-1}],"records":[{"chains":[{"layers":[0,1]}]}]}"#, "layer 1, which"),
        (r#"{"records":[{"inputs":[[{"link":1}]]}]}"#, "record 1, which"),
        (r#"{"records":[{"inputs":[[{"link":-1}]]}]}"#, "record -1, which"),
        (r#"{"records":[{"inputs":[[{"link":0}]]}]}"#, "circle of records"),
        (r#"{"records":[{"inputs":[[{"link":1}]]},{"inputs":[[],[{"link":0}]]}]}"#, "circle of records"),
        (r#"{"records":[{"inputs":[[{"link":9223372036854775808}]]}]}"#, "cannot be read"),
        (r#"{"records":[{"inputs":[[{"link":0.5}]]}]}"#, "cannot be read"),
        (r#"{"records":{}}"#, "cannot be read"),
        ("7", "cannot be read"),
        ("", "cannot be read"),
    ] {
        let error = Document::parse(text.as_bytes()).expect_err(text).to_string();
        assert!(error.contains(expected), "{text}: {error}");
    }
    for empty in ["{}", r#"{"layers":null,"records":null,"more":{"a":[]}}"#] {
        assert_eq!(Document::parse(empty.as_bytes()).unwrap(), Document::default());
    }
    assert_eq!(Document::parse_records(Vec::new(), b"null").unwrap(), Document::default());
    let null = br#"[{"digest":"x","layers":null,"chains":null,"inputs":[null]}]"#;
    assert_eq!(Document::parse_records(Vec::new(), null).unwrap().records()[0].inputs, [vec![]]);
}

#[test]
fn much_is_refused_before_it_takes_memory() {
    let brackets = format!(r#"{{"records":[{{"inputs":[{}[]]}}]}}"#, "[],".repeat(MAX_PIECES / 2));
    assert!(matches!(Document::parse(brackets.as_bytes()), Err(DocumentError::TooMany)));
    assert!(matches!(Document::parse(&vec![b' '; MAX_BYTES + 1]), Err(DocumentError::TooLong(_))));
    let records = format!(r#"{{"records":[{}{{}}]}}"#, "{},".repeat(MAX_RECORDS));
    assert!(matches!(Document::parse(records.as_bytes()), Err(DocumentError::TooMany)));
    let deep = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
    assert!(matches!(Document::parse(deep.as_bytes()), Err(DocumentError::Json(_))));
}

#[test]
fn a_chain_of_a_hundred_thousand_is_no_recursion() {
    let count = 100_000;
    let layer = |number: usize| CacheLayer { parent: number.checked_sub(1), ..CacheLayer::default() };
    let record = |number: usize| {
        // The first needs the last.
        let link = (number + 1 < count).then(|| Link { record: number + 1, selector: String::new() });
        CacheRecord { inputs: vec![link.into_iter().collect()], ..CacheRecord::default() }
    };
    let document = Document::new((0..count).map(layer).collect(), (0..count).map(record).collect()).unwrap();
    assert_eq!(document.chain(&ResultLayers::Top(count - 1)).len(), count);
    assert_eq!(Document::parse(&document.to_json()).unwrap(), document);
    let sorted = document.sorted();
    assert_eq!((sorted.layers().len(), sorted.records().len()), (count, count));
}

fn number() -> impl Strategy<Value = i64> {
    prop_oneof![8 => 0..6_i64, 1 => Just(-1), 1 => any::<i64>()]
}

prop_compose! {
    /// JSON of the right shape with any numbers in it.
    fn shaped()(
        layers in vec((number(), 0..3_u8), 0..6),
        records in vec(
            (0..4_u8, vec(number(), 0..3), vec(vec(number(), 0..4), 0..2), vec(vec((number(), 0..3_u8), 0..3), 0..3), option::of(0..3_u8)),
            0..6,
        ),
    ) -> String {
        let layers: Vec<_> = layers.into_iter().map(|(parent, blob)| {
            serde_json::json!({"blob": format!("b{blob}"), "parent": parent})
        }).collect();
        let records: Vec<_> = records.into_iter().map(|(digest, tops, chains, inputs, year)| {
            let created = year.map(|year| format!("202{year}-01-01T00:00:00.5Z"));
            let top = |layer: &i64| serde_json::json!({"layer": layer, "createdAt": created});
            let chain = |layers: &Vec<i64>| serde_json::json!({"layers": layers, "createdAt": created});
            let link = |(link, selector): &(i64, u8)| {
                serde_json::json!({"link": link, "selector": "s".repeat(usize::from(*selector))})
            };
            let input = |links: &Vec<(i64, u8)>| links.iter().map(link).collect::<Vec<_>>();
            serde_json::json!({
                "digest": format!("k{digest}"),
                "layers": tops.iter().map(top).collect::<Vec<_>>(),
                "chains": chains.iter().map(chain).collect::<Vec<_>>(),
                "inputs": inputs.iter().map(input).collect::<Vec<_>>(),
            })
        }).collect();
        serde_json::json!({"layers": layers, "records": records}).to_string()
    }
}

fn survives(json: &[u8]) {
    let Ok(document) = Document::parse(json) else { return };
    assert_eq!(Document::parse(&document.to_json()).unwrap(), document);
    for record in document.records() {
        record.results.iter().for_each(|result| drop(document.chain(&result.layers)));
    }
    document.entries();
    let sorted = document.clone().sorted();
    let written = sorted.to_json();
    let again = Document::parse(&written).unwrap();
    assert_eq!(again, sorted);
    assert_eq!(again.sorted().to_json(), written);
    let layers = document.layers().to_vec();
    let records = Document::parse_records(layers, &document.records_to_json()).unwrap();
    assert_eq!(records, document);
}

fn digest(seed: u8) -> Digest {
    Digest::of([seed])
}

prop_compose! {
    fn entry()(
        class in 0..40_u8,
        definitions in proptest::collection::btree_set(40..80_u8, 0..3),
        contents in proptest::collection::btree_set(80..120_u8, 0..3),
        top in option::of(0..5_usize),
        chain in vec(0..5_usize, 1..3),
        is_chain in any::<bool>(),
        created in option::of(0..u64::from(u32::MAX)),
    ) -> Entry {
        let layers = if is_chain { Some(ResultLayers::Chain(chain)) } else { top.map(ResultLayers::Top) };
        let mut keys = [definitions, contents].map(|seeds| seeds.into_iter().map(digest).collect::<Vec<_>>());
        keys.iter_mut().for_each(|keys| keys.sort());
        let [definitions, contents] = keys;
        let result = layers.map(|layers| CacheResult { layers, created });
        Entry { class: digest(class), definitions, contents, result }
    }
}

proptest! {
    #[test]
    fn whatever_is_read_is_written_and_read_again(json in shaped()) {
        survives(json.as_bytes());
    }

    #[test]
    fn no_text_is_too_strange(json in vec(any::<u8>(), 0..200), text in "[\\[\\]{}\",:a-z0-9-]{0,80}") {
        survives(&json);
        survives(text.as_bytes());
    }

    #[test]
    fn entries_come_back(entries in proptest::collection::btree_map(0..40_u8, entry(), 0..6)) {
        let mut entries: Vec<Entry> = entries.into_values().collect();
        entries.sort_by_key(|entry| entry.class);
        entries.dedup_by_key(|entry| entry.class);
        let layer = |number: usize| CacheLayer { parent: number.checked_sub(1), ..CacheLayer::default() };
        let layers: Vec<_> = (0..5).map(layer).collect();
        let document = Document::of_entries(layers.clone(), &entries).unwrap();
        let json = document.records_to_json();
        let again = Document::parse_records(layers.clone(), &json).unwrap();
        let mut found = again.entries();
        found.sort_by_key(|entry| entry.class);
        for entry in &mut found {
            entry.definitions.sort();
            entry.contents.sort();
        }
        prop_assert_eq!(&found, &entries);
        prop_assert_eq!(Document::of_entries(layers, &found).unwrap().records_to_json(), json);
    }
}
