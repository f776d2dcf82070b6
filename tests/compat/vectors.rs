//! The recorded vectors (`tests/vectors/conformance`), and the strings in them, which stand for bytes.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;

use serde_json::Value;

/// All topics, and how many vectors each has: a file that lost some does not pass.
pub(crate) const TOPICS: [(&str, usize); 17] = [
    ("hosts", 284),
    ("auth", 236),
    ("strict", 49),
    ("access", 67),
    ("syntax", 284),
    ("chmod", 59),
    ("limits", 29),
    ("order", 20),
    ("listing", 43),
    ("ident", 45),
    ("place", 60),
    ("fakesuper", 42),
    ("filters", 23),
    ("hooks", 19),
    ("proxy", 28),
    ("refuse", 24),
    ("clientpw", 29),
];

/// One file of vectors.
pub(crate) struct Topic(Value);

impl Topic {
    pub(crate) fn read(name: &str) -> Self {
        let file = PathBuf::from(env!("CARGO_MANIFEST_DIR"))
            .join("vectors/conformance")
            .join(format!("{name}.json"));
        let text = fs::read(&file).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
        Self(serde_json::from_slice(&text).expect("JSON"))
    }

    pub(crate) fn vectors(&self) -> &[Value] {
        self.0["vectors"].as_array().expect("vectors")
    }

    /// Anything beside the vectors: `resolver`, `accounts`, `netgroups`.
    pub(crate) fn part(&self, name: &str) -> &Value {
        &self.0[name]
    }

    /// Vectors that one daemon can answer one after the other: equal configuration, files and daemon. Those
    /// with other clients present get a daemon of their own.
    pub(crate) fn groups(&self) -> Vec<Vec<&Value>> {
        let mut groups: BTreeMap<String, Vec<&Value>> = BTreeMap::new();
        for (number, vector) in self.vectors().iter().enumerate() {
            let own = match vector["client"]["holders"] {
                Value::Null => 0,
                _ => number + 1,
            };
            let key = format!(
                "{}|{}|{}|{own}",
                vector["config"], vector["files"], vector["daemon"]
            );
            groups.entry(key).or_default().push(vector);
        }
        groups.into_values().collect()
    }
}

pub(crate) fn id(vector: &Value) -> &str {
    vector["id"].as_str().expect("an id")
}

/// Strings stand for bytes, one character each.
pub(crate) fn bytes(value: &Value) -> Vec<u8> {
    let text = value.as_str().expect("a string");
    text.chars()
        .map(|character| u8::try_from(u32::from(character)).expect("a byte"))
        .collect()
}

pub(crate) fn characters(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| char::from(*byte)).collect()
}

pub(crate) fn octal(value: &Value) -> Option<u32> {
    let text = value.as_str()?;
    Some(u32::from_str_radix(text, 8).expect("octal"))
}

/// The client's further options, as words.
pub(crate) fn options(vector: &Value) -> Vec<&str> {
    let options = vector["client"]["options"].as_array();
    options
        .into_iter()
        .flatten()
        .map(|option| option.as_str().expect("an option"))
        .collect()
}

/// With the scratch directory and the port put in.
pub(crate) fn placed(text: &[u8], root: &str, port: u16) -> Vec<u8> {
    let mut placed = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((&byte, after)) = rest.split_first() {
        if let Some(after) = rest.strip_prefix(b"{ROOT}") {
            placed.extend_from_slice(root.as_bytes());
            rest = after;
        } else if let Some(after) = rest.strip_prefix(b"{PORT}") {
            placed.extend_from_slice(port.to_string().as_bytes());
            rest = after;
        } else {
            placed.push(byte);
            rest = after;
        }
    }
    placed
}
