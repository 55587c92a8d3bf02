//! run-mount.json and run-device.json: the options of RUN.

use std::collections::BTreeMap;

use kiln_frontend::dockerfile::{
    InstructionKind, Phase, device::Device, diagnostic::first_error, expand::Expander, mount, parse,
};
use serde_json::{Map, Value, json};

use crate::vectors::{run, same, text};

#[test]
fn mounts_are_read_as_recorded() {
    run("run-mount", |case| {
        let written = text(case, "mount");
        let early = mount::check_early(written);
        if text(case, "error_phase") == "parse" {
            // Through a whole file, for the line in the message; the flag scanner takes the quotes away.
            let (_, diagnostics) = parse(&format!("FROM x\nRUN --mount={written} y\n"));
            let error = first_error(&diagnostics).ok_or("no error")?;
            same("phase", error.phase, Phase::Instruction)?;
            return same("error", &*error.full_text(), text(case, "error"));
        }
        early.map_err(|error| format!("early: {error}"))?;
        let env: BTreeMap<String, String> = serde_json::from_value(case["env"].clone()).unwrap_or_default();
        let lookup = |name: &str| env.get(name).map(String::as_str);
        let expander = Expander::new('\\', &lookup);
        let result = mount::parse(written, |value| expander.process_word(value));
        if let Some(error) = case["error"].as_str() {
            return same("error", result.err().map(|error| error.to_string()).as_deref(), Some(error));
        }
        let mount = result.map_err(|error| error.to_string())?;
        let mut fields = Map::new();
        fields.insert("type".to_owned(), json!(mount.kind.as_str()));
        fields.insert("readonly".to_owned(), json!(mount.read_only));
        let mut put = |key: &str, value: Option<Value>| {
            fields.extend(value.map(|value| (key.to_owned(), value)));
        };
        put("from", mount.from.map(Value::from));
        put("source", mount.source.map(Value::from));
        put("target", mount.target.map(Value::from));
        put("id", mount.id.map(Value::from));
        put("env", mount.env.map(Value::from));
        put("size", mount.size.map(Value::from));
        put("uid", mount.uid.map(Value::from));
        put("gid", mount.gid.map(Value::from));
        put("mode", mount.mode.map(|mode| json!(format!("{mode:04o}"))));
        put("sharing", mount.sharing.map(|sharing| json!(sharing.as_str())));
        put("required", mount.required.then_some(Value::Bool(true)));
        same("mount", &Value::Object(fields), &case["parsed"])
    });
}

#[test]
fn devices_are_read_as_recorded() {
    run("run-device", |case| {
        let result = Device::parse(text(case, "device"));
        if let Some(error) = case["error"].as_str() {
            return same("error", result.err().map(|error| error.to_string()).as_deref(), Some(error));
        }
        let device = result.map_err(|error| error.to_string())?;
        same("name", &*device.name, text(&case["parsed"], "name"))?;
        same("required", Some(device.required), case["parsed"]["required"].as_bool())
    });
}

#[test]
fn a_mount_keeps_its_place() {
    let source = "FROM x\nRUN --mount=type=cache,target=/a make\n";
    let (file, diagnostics) = parse(source);
    assert_eq!(diagnostics, []);
    let InstructionKind::Run(run) = &file.instructions[1].kind else { panic!("not a RUN") };
    assert_eq!(run.mounts[0].span.text(source), "type=cache,target=/a");
}

#[test]
fn an_empty_value_is_none() {
    let read = |text: &str| mount::parse(text, |value| Ok(value.replace("$UNSET", "")));
    let mount = read("target=,source=$UNSET,from=,id=").unwrap();
    assert_eq!((mount.target, mount.source, mount.from, mount.id), (None, None, None, None));
    for (text, reason) in [
        ("type=secret,id=$UNSET", Some("invalid secret mount. one of source, target required")),
        ("type=secret,target=", Some("invalid secret mount. one of source, target required")),
        ("type=secret,id=,source=k", None),
        ("type=secret,id=k,from=", None),
    ] {
        assert_eq!(read(text).err().map(|error| error.to_string()).as_deref(), reason, "{text}");
    }
}

#[test]
fn a_device_has_its_name_wherever_it_stands() {
    for (text, name) in
        [("required,v/g", "v/g"), ("name=,v/g=a", "v/g=a"), (",v/g", "v/g"), ("required,foo=1", "foo=1")]
    {
        assert_eq!(Device::parse(text).map(|device| device.name).as_deref(), Ok(name), "{text}");
    }
    let wrong = Device::parse("v/g,require=1").unwrap_err();
    assert_eq!(wrong.to_string(), "unexpected key 'require' in 'require=1' (did you mean required?)");
}
