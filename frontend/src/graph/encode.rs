//! Digests of ops: the part of a cache key that comes from the definition.
//!
//! Each op is written field by field into bytes, and the bytes are hashed under a schema
//! name (`kiln.exec.v1`, …). A field is a tag of two bytes and a value with its length in
//! front; tags ascend, and what is empty or absent is left out, so that a new field with a
//! default keeps old keys. Lists keep their order. Nothing here goes through serde: a
//! renamed field must not change a key. An intentional change of meaning takes a new schema
//! name, and then every key of that op is a miss.
//!
//! Not in any digest, because they change nothing in the result or must not leak into it:
//! names, stages and source lines; proxy variables; the id, sharing and content of cache
//! mounts; values of secrets; the addresses of extra hosts; the paths of local directories;
//! whether the look-up is skipped.

use kiln_oci::{Digest, Hasher, Platform, ReferenceDigest};

use super::{
    Copy, CopyFrom, Exec, FileAction, FileOp, Graph, LocalSource, Mode, Mount, MountKind, Network, Op, Owner,
    Principal, Security, Sharing, Source, Vertex,
};

/// Returns the digest of a vertex's op, and of its platform where the result depends on it
/// (commands and images). Inputs are not in it.
pub fn op_digest(vertex: &Vertex) -> Digest {
    encode(vertex, Paths::Whole)
}

/// Returns the digest of a vertex's op for keys that hold the *content* of its inputs.
///
/// It differs from [`op_digest`] in that the paths of copied and mounted sources are reduced
/// to their last component: the content stands in the key, so it does not matter where it
/// came from, and a moved file still hits.
pub fn content_op_digest(vertex: &Vertex) -> Digest {
    encode(vertex, Paths::Last)
}

/// Returns for each vertex a digest of its op and of everything below it, which tells equal
/// work apart from different work within one run.
pub fn vertex_digests(graph: &Graph) -> Vec<Digest> {
    let mut digests: Vec<Digest> = Vec::with_capacity(graph.vertices.len());
    for vertex in &graph.vertices {
        let mut hasher = Hasher::domain("kiln.vertex.v1");
        hasher.digest(&op_digest(vertex)).number(vertex.inputs.len() as u64);
        for input in &vertex.inputs {
            // Inputs come first in the list, so their digests are known; one that breaks the
            // rule counts as absent rather than as a panic.
            match input.and_then(|edge| Some((edge.output, digests.get(edge.vertex.0 as usize)?))) {
                None => hasher.number(0),
                Some((output, digest)) => hasher.number(1 + u64::from(output)).digest(digest),
            };
        }
        digests.push(hasher.finish());
    }
    digests
}

/// How much of a source path is written.
#[derive(Clone, Copy)]
enum Paths {
    Whole,
    Last,
}

impl Paths {
    fn of(self, path: &str) -> &str {
        match self {
            Self::Whole => path,
            Self::Last => path.rsplit('/').next().unwrap_or(path),
        }
    }
}

fn encode(vertex: &Vertex, paths: Paths) -> Digest {
    let mut fields = Fields::default();
    let schema = match &vertex.op {
        Op::Source(source) => return source_digest(source, vertex.platform.as_ref()),
        Op::Exec(exec) => {
            exec_fields(&mut fields, exec, vertex.platform.as_ref(), paths);
            "kiln.exec.v1"
        }
        Op::File(file) => {
            file_fields(&mut fields, file, paths);
            "kiln.file.v1"
        }
        Op::Merge => "kiln.merge.v1",
    };
    fields.digest(schema)
}

fn source_digest(source: &Source, platform: Option<&Platform>) -> Digest {
    let mut fields = Fields::default();
    let schema = match source {
        Source::Image { reference } => {
            fields.text(1, reference);
            fields.platform(2, platform);
            "kiln.image.v1"
        }
        // Where the layout lies is a matter of this machine, and the digest says it all.
        Source::OciLayout { store: _, digest } => {
            fields.bytes(1, digest.as_bytes());
            fields.platform(2, platform);
            "kiln.oci-layout.v1"
        }
        Source::Local(LocalSource { name, follow_paths: _ }) => {
            fields.text(1, name);
            "kiln.local.v1"
        }
        Source::Http { url, filename, checksum } => {
            fields.text(1, url);
            fields.text(2, filename);
            match checksum {
                None => {}
                Some(ReferenceDigest::Sha256(digest)) => fields.bytes(3, digest.as_bytes()),
                Some(ReferenceDigest::Other(text)) => fields.text(4, text),
            }
            "kiln.http.v1"
        }
        Source::Git { remote, reference, subdir, keep_git_dir, checksum, submodules, commit_times } => {
            fields.text(1, remote);
            fields.text(2, reference);
            fields.text(3, subdir);
            fields.flag(4, *keep_git_dir);
            fields.optional(5, checksum.as_deref());
            fields.flag(6, *submodules);
            fields.flag(7, *commit_times);
            "kiln.git.v1"
        }
    };
    fields.digest(schema)
}

fn exec_fields(fields: &mut Fields, exec: &Exec, platform: Option<&Platform>, paths: Paths) {
    let Exec {
        args,
        env,
        cwd,
        user,
        hostname,
        extra_hosts,
        network,
        security,
        mounts,
        proxy_env: _,
        ulimits,
        shm_size,
        cgroup_parent,
        devices,
    } = exec;
    fields.texts(1, args);
    fields.texts(2, env);
    fields.text(3, cwd);
    fields.text(4, user);
    fields.text(5, hostname);
    fields.texts(6, extra_hosts.iter().map(|(name, _)| name));
    fields.code(
        7,
        match network {
            Network::Default => 0,
            Network::None => 1,
            Network::Host => 2,
        },
    );
    fields.code(
        8,
        match security {
            Security::Sandbox => 0,
            Security::Insecure => 1,
        },
    );
    for mount in mounts {
        fields.nested(9, |inner| mount_fields(inner, mount, paths));
    }
    fields.texts(10, ulimits);
    if let Some(size) = shm_size {
        fields.number(11, *size);
    }
    fields.text(12, cgroup_parent);
    for (name, required) in devices {
        fields.nested(13, |inner| {
            inner.text(1, name);
            inner.flag(2, *required);
        });
    }
    fields.platform(14, platform);
}

fn mount_fields(fields: &mut Fields, mount: &Mount, paths: Paths) {
    fields.text(1, &mount.target);
    fields.flag(2, mount.read_only);
    match &mount.kind {
        MountKind::Bind { input, source } => {
            fields.number(3, 0);
            fields.number(4, *input as u64);
            // The selector covers the path, and a mounted tree has no name of its own.
            if let Paths::Whole = paths {
                fields.text(5, source);
            }
        }
        MountKind::Cache {
            id: _,
            sharing: Sharing::Shared | Sharing::Private | Sharing::Locked,
            input,
            source,
            owner,
        } => {
            fields.number(3, 1);
            if let Some(input) = input {
                fields.number(4, *input as u64);
            }
            fields.text(5, source);
            fields.numbers(6, &[owner.uid, owner.gid, owner.mode]);
        }
        MountKind::Tmpfs { size } => {
            fields.number(3, 2);
            fields.number(7, *size);
        }
        MountKind::Secret { id, file, env, required, uid, gid, mode } => {
            fields.number(3, 3);
            fields.numbers(6, &[*uid, *gid, *mode]);
            fields.text(8, id);
            fields.flag(9, *file);
            fields.optional(10, env.as_deref());
            fields.flag(11, *required);
        }
        MountKind::Ssh { id, required, uid, gid, mode } => {
            fields.number(3, 4);
            fields.numbers(6, &[*uid, *gid, *mode]);
            fields.text(8, id);
            fields.flag(11, *required);
        }
    }
}

fn file_fields(fields: &mut Fields, file: &FileOp, paths: Paths) {
    for action in &file.actions {
        match action {
            FileAction::MakeDir { path, mode, owner, time } => fields.nested(1, |inner| {
                inner.text(1, path);
                inner.number(2, u64::from(*mode));
                inner.owner(3, owner.as_ref());
                if let Some(time) = time {
                    inner.bytes(4, &time.to_le_bytes());
                }
            }),
            FileAction::Copy(copy) => fields.nested(2, |inner| copy_fields(inner, copy, paths)),
        }
    }
}

fn copy_fields(fields: &mut Fields, copy: &Copy, paths: Paths) {
    let Copy {
        from,
        source,
        destination,
        owner,
        mode,
        wildcards,
        follow_symlinks,
        contents_only,
        unpack,
        include,
        required,
        exclude,
    } = copy;
    match from {
        CopyFrom::Input(input) => fields.number(1, *input as u64),
        CopyFrom::Inline { name, data } => fields.nested(2, |inner| {
            inner.text(1, name);
            inner.bytes(2, data);
        }),
    }
    fields.text(3, paths.of(source));
    fields.text(4, destination);
    fields.owner(5, owner.as_ref());
    match mode {
        None => {}
        Some(Mode::Octal(mode)) => fields.number(6, u64::from(*mode)),
        Some(Mode::Symbolic(mode)) => fields.text(7, mode),
    }
    fields.flag(8, *wildcards);
    fields.flag(9, *follow_symlinks);
    fields.flag(10, *contents_only);
    fields.flag(11, *unpack);
    if let Some(include) = include {
        fields.nested(12, |inner| inner.texts(1, include));
    }
    fields.texts(13, required);
    fields.texts(14, exclude);
}

/// The bytes of an op, or of a part of one.
#[derive(Default)]
struct Fields {
    bytes: Vec<u8>,
}

impl Fields {
    fn digest(self, schema: &str) -> Digest {
        let mut hasher = Hasher::domain(schema);
        hasher.update(&self.bytes);
        hasher.finish()
    }

    /// Writes a field, even an empty one.
    fn bytes(&mut self, tag: u16, value: &[u8]) {
        self.bytes.extend_from_slice(&tag.to_le_bytes());
        self.bytes.extend_from_slice(&(value.len() as u64).to_le_bytes());
        self.bytes.extend_from_slice(value);
    }

    fn number(&mut self, tag: u16, value: u64) {
        self.bytes(tag, &value.to_le_bytes());
    }

    fn numbers(&mut self, tag: u16, values: &[u32]) {
        let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        self.bytes(tag, &bytes);
    }

    /// Writes a choice whose first possibility is the default.
    fn code(&mut self, tag: u16, value: u64) {
        if value != 0 {
            self.number(tag, value);
        }
    }

    fn flag(&mut self, tag: u16, value: bool) {
        self.code(tag, u64::from(value));
    }

    fn text(&mut self, tag: u16, value: &str) {
        if !value.is_empty() {
            self.bytes(tag, value.as_bytes());
        }
    }

    /// Writes a text that may be absent; an empty one is not the same as none.
    fn optional(&mut self, tag: u16, value: Option<&str>) {
        if let Some(value) = value {
            self.bytes(tag, value.as_bytes());
        }
    }

    /// Writes a list: the field once for each item, in order, even where items are empty.
    fn texts<T: AsRef<str>>(&mut self, tag: u16, values: impl IntoIterator<Item = T>) {
        for value in values {
            self.bytes(tag, value.as_ref().as_bytes());
        }
    }

    fn nested(&mut self, tag: u16, write: impl FnOnce(&mut Self)) {
        let mut inner = Self::default();
        write(&mut inner);
        self.bytes(tag, &inner.bytes);
    }

    fn owner(&mut self, tag: u16, owner: Option<&Owner>) {
        let Some(owner) = owner else { return };
        self.nested(tag, |inner| {
            inner.principal(1, &owner.user);
            if let Some(group) = &owner.group {
                inner.principal(3, group);
            }
        });
    }

    /// Writes a number under `tag`, or a name under the next one.
    fn principal(&mut self, tag: u16, principal: &Principal) {
        match principal {
            Principal::Id(id) => self.number(tag, u64::from(*id)),
            Principal::Name(name) => self.bytes(tag + 1, name.as_bytes()),
        }
    }

    fn platform(&mut self, tag: u16, platform: Option<&Platform>) {
        let Some(platform) = platform else { return };
        self.nested(tag, |inner| {
            inner.text(1, &platform.os);
            inner.text(2, &platform.architecture);
            inner.text(3, &platform.variant);
            inner.text(4, &platform.os_version);
            let mut features: Vec<&String> = platform.os_features.iter().collect();
            features.sort();
            inner.texts(5, features);
        });
    }
}

#[cfg(test)]
mod tests;
