//! Plain files, read by us and by another parser.

use dockerfile_parser::{Dockerfile, Instruction as PlainInstruction};
use kiln_frontend::dockerfile::{
    InstructionKind,
    ast::{CommandLine, RunCommand, Word},
    parse,
};
use proptest::{collection::vec, prelude::*};

/// The plain files that the other parser knows.
fn plain_line() -> impl Strategy<Value = String> {
    let word = "[a-z][a-z0-9_./]{0,6}";
    prop_oneof![
        (word, word).prop_map(|(image, name)| format!("FROM {image} AS {}", name.replace(['/', '.'], "-"))),
        word.prop_map(|image| format!("FROM {image}")),
        (word, word).prop_map(|(a, b)| format!("RUN {a} {b}")),
        (word, word).prop_map(|(a, b)| format!("CMD [\"{a}\", \"{b}\"]")),
        (word, word).prop_map(|(a, b)| format!("ENTRYPOINT {a} {b}")),
        ("[a-z]{1,5}", word).prop_map(|(a, b)| format!("ENV {a}={b}")),
        ("[a-z]{1,5}", word).prop_map(|(a, b)| format!("LABEL {a}={b}")),
        ("[a-z]{1,5}", word).prop_map(|(a, b)| format!("ARG {a}={b}")),
        (word, word, word).prop_map(|(a, b, c)| format!("COPY --from={a} {b} {c}")),
        vec(word, 2..4).prop_map(|words| format!("COPY {}", words.join(" "))),
    ]
}

fn texts(words: &[Word]) -> Vec<String> {
    words.iter().map(|word| word.text.clone()).collect()
}

proptest! {
    #[test]
    fn plain_files_are_read_like_by_another_parser(lines in vec(plain_line(), 1..8)) {
        let text = format!("FROM base\n{}\n", lines.join("\n"));
        let other = Dockerfile::parse(&text).map_err(|error| TestCaseError::fail(error.to_string()))?;
        let (file, diagnostics) = parse(&text);
        prop_assert_eq!(diagnostics, []);
        prop_assert_eq!(file.instructions.len(), other.instructions.len());
        for (ours, theirs) in file.instructions.iter().zip(&other.instructions) {
            match (&ours.kind, theirs) {
                (InstructionKind::From(ours), PlainInstruction::From(theirs)) => {
                    prop_assert_eq!(&ours.image.text, &theirs.image.content);
                    prop_assert_eq!(
                        ours.name.as_ref().map(|name| &*name.text),
                        theirs.alias.as_ref().map(|alias| &*alias.content)
                    );
                }
                (InstructionKind::Run(ours), PlainInstruction::Run(theirs)) => {
                    let RunCommand::Shell(ours) = &ours.command else { panic!("not a shell command") };
                    prop_assert_eq!(Some(ours.text.clone()), theirs.as_shell().map(|text| text.to_string()));
                }
                (InstructionKind::Cmd(CommandLine::Exec(ours)), PlainInstruction::Cmd(theirs)) => {
                    let theirs = theirs.as_exec().map(|words| words.as_str_vec().iter().map(|w| (*w).to_owned()).collect());
                    prop_assert_eq!(Some(texts(ours)), theirs);
                }
                (InstructionKind::Entrypoint(CommandLine::Shell(ours)), PlainInstruction::Entrypoint(theirs)) => {
                    prop_assert_eq!(Some(ours.text.clone()), theirs.as_shell().map(|text| text.to_string()));
                }
                (InstructionKind::Env(ours), PlainInstruction::Env(theirs)) => {
                    prop_assert_eq!(&ours.pairs[0].key.text, &theirs.vars[0].key.content);
                    prop_assert_eq!(&ours.pairs[0].value.text, &theirs.vars[0].value.to_string());
                }
                (InstructionKind::Label(ours), PlainInstruction::Label(theirs)) => {
                    prop_assert_eq!(&ours.pairs[0].key.text, &theirs.labels[0].name.content);
                    prop_assert_eq!(&ours.pairs[0].value.text, &theirs.labels[0].value.content);
                }
                (InstructionKind::Arg(ours), PlainInstruction::Arg(theirs)) => {
                    prop_assert_eq!(&ours[0].name.text, &theirs.name.content);
                    prop_assert_eq!(
                        ours[0].default.as_ref().map(|word| &*word.text),
                        theirs.value.as_ref().map(|value| &*value.content)
                    );
                }
                (InstructionKind::Copy(ours), PlainInstruction::Copy(theirs)) => {
                    let sources: Vec<String> = theirs.sources.iter().map(|source| source.content.clone()).collect();
                    prop_assert_eq!(texts(&ours.sources.paths), sources);
                    prop_assert_eq!(&ours.sources.destination.text, &theirs.destination.content);
                    prop_assert_eq!(ours.from.is_some(), theirs.flags.iter().any(|flag| flag.name.content == "from"));
                }
                (ours, theirs) => prop_assert!(false, "{:?} is not {:?}", ours, theirs),
            }
        }
    }
}
