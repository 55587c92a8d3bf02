//! An OCI layout, as a folder or in an archive.

use std::collections::HashMap;
use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};

use kiln_oci::{Digest, Platform};
use serde_json::Value;

use crate::play::Result;

/// A layout that is being read.
#[derive(Debug)]
pub enum Archive {
    /// A folder.
    Folder(PathBuf),
    /// The files of an archive by name.
    Files(HashMap<String, Vec<u8>>),
}

impl Archive {
    /// Opens a folder or an archive.
    pub fn open(path: &Path) -> Result<Self> {
        if path.is_dir() {
            return Ok(Self::Folder(path.to_owned()));
        }
        let mut files = HashMap::new();
        for entry in tar::Archive::new(fs::File::open(path)?).entries()? {
            let mut entry = entry?;
            if entry.header().entry_type().is_file() {
                let name = String::from_utf8(entry.path_bytes().into_owned())?;
                let mut content = Vec::new();
                entry.read_to_end(&mut content)?;
                files.insert(name, content);
            }
        }
        Ok(Self::Files(files))
    }

    /// Returns the index.
    pub fn index(&self) -> Result<Value> {
        Ok(serde_json::from_slice(&self.get("index.json")?)?)
    }

    /// Returns a blob, after a look at whether it is what its name says.
    pub fn blob(&self, descriptor: &Value) -> Result<Vec<u8>> {
        let digest = descriptor["digest"].as_str().ok_or("a descriptor without a digest")?;
        let bytes = self.get(&format!("blobs/{}", digest.replace(':', "/")))?;
        if Digest::of(&bytes).to_string() != digest {
            return Err(format!("blob {digest} has other content").into());
        }
        Ok(bytes)
    }

    /// Returns a blob that is JSON.
    pub fn json(&self, descriptor: &Value) -> Result<Value> {
        Ok(serde_json::from_slice(&self.blob(descriptor)?)?)
    }

    /// Returns a layer, uncompressed.
    pub fn layer(&self, descriptor: &Value) -> Result<Vec<u8>> {
        let bytes = self.blob(descriptor)?;
        let mut plain = Vec::new();
        match bytes.get(..4) {
            Some([0x1f, 0x8b, 8, _]) => drop(flate2::read::MultiGzDecoder::new(&*bytes).read_to_end(&mut plain)?),
            Some([0x28, 0xb5, 0x2f, 0xfd]) => plain = zstd::decode_all(&*bytes)?,
            _ => plain = bytes,
        }
        Ok(plain)
    }

    /// Returns the manifests of images, with their platforms; attestations are none.
    pub fn manifests(&self) -> Result<Vec<(String, Value)>> {
        let mut found = Vec::new();
        self.collect(&self.index()?, &mut found)?;
        Ok(found)
    }

    fn collect(&self, index: &Value, found: &mut Vec<(String, Value)>) -> Result<()> {
        for descriptor in index["manifests"].as_array().ok_or("an index without manifests")? {
            if descriptor["annotations"]["vnd.docker.reference.type"].is_string() {
                continue;
            }
            let document = self.json(descriptor)?;
            if document["manifests"].is_array() {
                self.collect(&document, found)?;
                continue;
            }
            let platform = match &descriptor["platform"] {
                Value::Null => String::new(),
                platform => serde_json::from_value::<Platform>(platform.clone())?.to_string(),
            };
            found.push((platform, document));
        }
        Ok(())
    }

    /// Unpacks an archive into `folder`, where its image is called `latest`.
    pub fn unpack(&self, folder: &Path) -> Result<()> {
        let Self::Files(files) = self else { return Err("a folder is unpacked already".into()) };
        for (name, content) in files {
            let path = folder.join(name);
            fs::create_dir_all(path.parent().ok_or("a file without a folder")?)?;
            fs::write(path, content)?;
        }
        let mut index = self.index()?;
        for descriptor in index["manifests"].as_array_mut().ok_or("an index without manifests")? {
            descriptor["annotations"]["org.opencontainers.image.ref.name"] = "latest".into();
        }
        Ok(fs::write(folder.join("index.json"), index.to_string())?)
    }

    fn get(&self, name: &str) -> Result<Vec<u8>> {
        match self {
            Self::Folder(folder) => Ok(fs::read(folder.join(name))?),
            Self::Files(files) => Ok(files.get(name).ok_or_else(|| format!("{name} is not in the archive"))?.clone()),
        }
    }
}
