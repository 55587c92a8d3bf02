//! Any text as an ignore file, followed by an empty line and paths to ask about.
#![no_main]

use kiln_frontend::dockerignore::parse;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    let (rules, paths) = text.split_once("\n\n").unwrap_or((text, "a/b/c"));
    let Ok(patterns) = parse(rules) else { return };
    for path in paths.lines().take(16) {
        let whole = patterns.verdict_of(path);
        // What is pruned is ignored, and so is all that is in it.
        if let Some((directory, _)) = path.split_once('/')
            && !directory.is_empty()
        {
            let root = patterns.root();
            let (verdict, _) = patterns.enter(&root, directory);
            if verdict.matched && patterns.can_prune(directory) {
                assert!(whole.matched, "{path:?} in {rules:?}");
            }
        }
    }
});
