//! Golden vectors: frames of every message, the chain, proofs, digests and sums, from fixed inputs.
//!
//! `SYNCD_VECTORS=write cargo test -p syncd-proto --test vectors` writes them anew; once released they
//! never change. The table of frame types in docs/PROTOCOL.md is checked here too.

#![expect(
    clippy::disallowed_methods,
    reason = "golden files are read from, and on demand written to, the disk"
)]

#[allow(dead_code, reason = "shared with pair.rs")]
mod golden;

use std::fmt::Write as _;
use std::path::PathBuf;

use golden::{certificate, hello, meta, password, path, signer, verifier};
use syncd_proto::attributes::Attributes;
use syncd_proto::auth::{Transcript, key_hash};
use syncd_proto::chain;
use syncd_proto::delta::{BlockSize, GroupHasher, sign_range};
use syncd_proto::digest::Digest;
use syncd_proto::frame::{Frame, HEADER_BYTES};
use syncd_proto::limits;
use syncd_proto::merkle::DirHasher;
use syncd_proto::message::*;
use syncd_proto::meta::{Compare, EntryMeta, Kind, Meta, Mtime, Times, Xattr};
use syncd_proto::op::{Content, Expect, IdKind, IdName, Op};
use syncd_proto::path::{Name, WirePath};
use syncd_proto::reject::RejectCode;

fn folder() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/vectors")
}

/// A file of named byte strings.
#[derive(Default)]
struct Vectors(String);

impl Vectors {
    fn add(&mut self, name: &str, bytes: &[u8]) {
        writeln!(self.0, "{name}").unwrap();
        for line in bytes.chunks(32) {
            self.0.push_str("  ");
            for byte in line {
                write!(self.0, "{byte:02x}").unwrap();
            }
            self.0.push('\n');
        }
    }

    fn check(&self, file: &str) {
        let file = folder().join(file);
        if std::env::var_os("SYNCD_VECTORS").is_some_and(|wish| wish == "write") {
            std::fs::write(&file, &self.0).unwrap();
        }
        let known = std::fs::read_to_string(&file).unwrap();
        assert_eq!(self.0, known, "{} differs", file.display());
    }
}

fn agent(seq: u64, message: impl Into<AgentMessage>, payload: &[u8]) -> Frame {
    let (message, mut body) = (message.into(), Vec::new());
    message.encode_body(&mut body).unwrap();
    let (kind, payload) = (message.kind(), payload.to_vec());
    let frame = Frame {
        seq,
        kind,
        body,
        payload,
        packed: false,
    };
    assert_eq!(AgentMessage::from_frame(&frame).unwrap(), message);
    frame
}

fn receiver(seq: u64, message: impl Into<ReceiverMessage>, payload: &[u8]) -> Frame {
    let (message, mut body) = (message.into(), Vec::new());
    message.encode_body(&mut body).unwrap();
    let (kind, payload) = (message.kind(), payload.to_vec());
    let frame = Frame {
        seq,
        kind,
        body,
        payload,
        packed: false,
    };
    assert_eq!(ReceiverMessage::from_frame(&frame).unwrap(), message);
    frame
}

fn write(frames: &[(&str, Frame)], file: &str) {
    let mut vectors = Vectors::default();
    for (name, frame) in frames {
        let mut wire = Vec::new();
        frame.write_to(&mut wire);
        vectors.add(&format!("{name} (type {})", frame.kind), &wire);
    }
    vectors.check(file);
}

fn ops() -> Vec<Op> {
    let staged = Content::Staged {
        transfer: 3,
        len: 1 << 33,
        digest: Digest::of(b"staged"),
    };
    let inline = Content::Inline {
        len: 5,
        digest: Digest::of(b"hello"),
    };
    let xattrs = Some(vec![Xattr {
        name: b"user.comment".to_vec(),
        value: b"v".to_vec(),
    }]);
    let expect = Expect {
        kind: Kind::File,
        size: 300,
        mtime: Mtime::new(-1, 999_999_999),
    };
    let latin1 = WirePath::from_names(vec![Name::new(b"caf\xe9").unwrap()]).unwrap();
    let (from, to) = (path("d/f"), path("d/g"));
    vec![
        Op::Mkdir {
            path: path("d"),
            meta: meta(),
        },
        Op::Put {
            path: path("d/f"),
            meta: meta(),
            content: inline,
        },
        Op::Put {
            path: latin1,
            meta: Meta { xattrs, ..meta() },
            content: staged,
        },
        Op::Symlink {
            path: path("l"),
            meta: meta(),
            target: b"../t".to_vec(),
        },
        Op::Link {
            path: path("h"),
            to: path("d/f"),
        },
        Op::Special {
            path: path("n"),
            meta: meta(),
            kind: Kind::CharDevice,
            rdev: (1, 300),
        },
        Op::Rename {
            from,
            to,
            expect: Some(expect),
        },
        Op::Rename {
            from: path("x"),
            to: path("y"),
            expect: None,
        },
        Op::Exchange {
            a: path("a"),
            b: path("b"),
        },
        Op::Remove {
            path: path("old"),
            recursive: true,
        },
        Op::SetMeta {
            path: path("d"),
            kind: Kind::Dir,
            size: 0,
            meta: meta(),
        },
    ]
}

fn commit() -> Commit {
    Commit {
        module: b"www".to_vec(),
        session: [1; 32],
        seq: 1,
        ops: ops(),
    }
}

/// After [`FEATURE_SAME`] was agreed on.
fn commit_same() -> Commit {
    let same = Op::Same {
        path: path("d/f"),
        len: 300,
        digest: Digest::of(b"same"),
        meta: meta(),
        names: Vec::new(),
    };
    let linked = Op::Same {
        path: path("d/g"),
        len: 4,
        digest: Digest::of(b"same"),
        meta: meta(),
        names: vec![path("d/h"), path("i")],
    };
    Commit {
        ops: vec![same, linked],
        ..commit()
    }
}

fn signed(commit: Commit, inline: &[u8]) -> Vec<u8> {
    let root = chain::next_root(&chain::first_root(&[1; 32]), &agent(0, commit, &[]).body);
    let signature = signer().sign(&root).unwrap();
    let length = (signature.len() as u16).to_le_bytes();
    [&length[..], &signature, inline].concat()
}

fn id_query() -> IdQuery {
    let name = |kind, id, name: &[u8]| IdName {
        kind,
        id,
        name: name.to_vec(),
    };
    IdQuery {
        id: 5,
        names: vec![
            name(IdKind::User, 1_000, b"alice"),
            name(IdKind::Group, 100, b"users"),
        ],
    }
}

fn entry(kind: Kind, size: u64) -> EntryMeta {
    EntryMeta {
        kind,
        mode: 0o2_755,
        uid: 1_000,
        gid: 100,
        mtime: Mtime::new(1_700_000_000, 123_456_789).unwrap(),
        size,
        rdev: (0, 0),
        content: (kind == Kind::File).then(|| Digest::of(b"content")),
        xattrs: None,
    }
}

#[test]
fn agent_frames() {
    let basis = Basis {
        path: path("d/f"),
        version: [4; 16],
        len: 70_000,
    };
    let key = Some(Digest::of(b"key"));
    let chunk = StageChunk {
        transfer: 3,
        ops: vec![
            PatchOp::Copy {
                from: 65_536,
                len: 1 << 20,
            },
            PatchOp::Literal { len: 5 },
            PatchOp::Hole { len: 4_096 },
        ],
    };
    let digest = Digest::of(b"whole");
    let blocks = SignatureWant::Blocks {
        version: [4; 16],
        block_bytes: 2_048,
        ranges: vec![(0, 65_536), (131_072, 4_464)],
    };
    let groups = SignatureQuery {
        id: 3,
        path: path("d/f"),
        want: SignatureWant::Groups,
    };
    let user = None;
    let list_modules = Hello {
        purpose: Purpose::ListModules,
        module: vec![],
        user,
        ..hello()
    };
    let begin = StageBegin {
        transfer: 3,
        len_hint: 70_001,
        basis: Some(basis),
        key,
        resume_at: 250,
    };
    let plain = StageBegin {
        transfer: 4,
        len_hint: 251,
        basis: None,
        key: None,
        resume_at: 0,
    };
    let paths = vec![WirePath::root(), path("d/e")];
    write(
        &[
            ("Hello", agent(0, hello(), &[])),
            ("Hello, to list modules", agent(0, list_modules, &[])),
            (
                "Answer",
                agent(
                    1,
                    Answer {
                        proof: Digest::of(b"proof"),
                    },
                    &[],
                ),
            ),
            ("StageBegin, resumed, with a basis", agent(2, begin, &[])),
            ("StageBegin, plain", agent(2, plain, &[])),
            ("StageChunk", agent(3, chunk, b"hello")),
            (
                "StageEnd",
                agent(
                    4,
                    StageEnd {
                        transfer: 3,
                        len: 70_001,
                        digest,
                    },
                    &[],
                ),
            ),
            ("StageAbort", agent(5, StageAbort { transfer: 3 }, &[])),
            ("Commit", agent(6, commit(), &signed(commit(), b"hello"))),
            (
                "Commit, with a file that is there",
                agent(6, commit_same(), &signed(commit_same(), b"")),
            ),
            (
                "DigestQuery",
                agent(
                    7,
                    DigestQuery {
                        id: 1,
                        paths,
                        content: true,
                    },
                    &[],
                ),
            ),
            (
                "ListQuery",
                agent(
                    8,
                    ListQuery {
                        id: 2,
                        path: path("d"),
                        content: false,
                    },
                    &[],
                ),
            ),
            ("SignatureQuery, groups", agent(9, groups.clone(), &[])),
            (
                "SignatureQuery, blocks",
                agent(
                    10,
                    SignatureQuery {
                        id: 4,
                        want: blocks,
                        ..groups
                    },
                    &[],
                ),
            ),
            ("IdQuery", agent(11, id_query(), &[])),
            ("Ping", agent(250, Ping { token: 250 }, &[])),
            ("Ping, two bytes", agent(251, Ping { token: 251 }, &[])),
            ("Ping, four bytes", agent(252, Ping { token: 65_536 }, &[])),
            (
                "Ping, eight bytes",
                agent(253, Ping { token: u64::MAX }, &[]),
            ),
            (
                "Bye",
                agent(
                    254,
                    Bye {
                        text: "stopped".into(),
                    },
                    &[],
                ),
            ),
        ],
        "agent-frames.hex",
    );
}

#[test]
fn receiver_frames() {
    let code = RejectCode::NoSpace;
    let compare = Compare {
        owner: false,
        mode_mask: 0o777,
        mtime: Times::Nanos,
        xattrs: Attributes {
            user: true,
            acls: true,
            ..Attributes::NONE
        },
        specials: true,
        devices: false,
        links: true,
    };
    let welcome = Welcome {
        version: 1,
        features: 0,
        receiver: "syncd-recv 0.1.0".into(),
        proof: Some(Digest::of(b"proof")),
        writable: true,
        compare,
        maps_names: true,
        durability: Durability::Files,
        window_bytes: 16 << 20,
        window_commits: 64,
        instance: [5; 16],
        leftovers: vec![Leftover {
            key: Digest::of(b"key"),
            bytes: 1 << 20,
        }],
    };
    let text = || "text".to_owned();
    let refused = Refused {
        code: RejectCode::AuthFailed,
        text: "auth failed on module www".into(),
    };
    let modules = vec![ModuleLine {
        name: b"www".to_vec(),
        comment: b"the site".to_vec(),
    }];
    let root = Digest::of(b"root");
    let reject = |what| Reject {
        what,
        code,
        text: text(),
    };
    let digests = vec![Some(Digest::of(b"dir")), None];
    let listed = |name: &[u8], meta, subtree, links| ListEntry {
        name: Name::new(name).unwrap(),
        meta,
        subtree,
        links,
    };
    let listing = Listing {
        id: 2,
        dir: Some(entry(Kind::Dir, 0)),
        entries: vec![
            listed(b"d", entry(Kind::Dir, 0), Some(root), None),
            listed(
                b"f",
                entry(Kind::File, 300),
                None,
                Some(Digest::of(b"first")),
            ),
        ],
        last: true,
    };
    let nothing = Listing {
        id: 2,
        dir: None,
        entries: Vec::new(),
        last: true,
    };
    let info = SignatureInfo {
        version: [4; 16],
        len: 70_000,
        mtime: meta().mtime,
        content: Some(Digest::of(b"whole")),
    };
    let signature = Signature {
        id: 3,
        info: Some(info),
        last: true,
    };
    let ack = Ack {
        applied: 300,
        durable: 299,
        root,
    };
    write(
        &[
            (
                "Challenge",
                receiver(0, Challenge { nonce: [0x22; 32] }, &[]),
            ),
            ("Welcome", receiver(1, welcome, &[])),
            ("Refused", receiver(1, refused, &[])),
            ("Modules", receiver(1, Modules { modules }, &[])),
            ("Ack", receiver(2, ack, &[])),
            (
                "Reject, operation",
                receiver(3, reject(Rejected::Op { seq: 9, index: 300 }), &[]),
            ),
            (
                "Reject, transfer",
                receiver(3, reject(Rejected::Transfer(3)), &[]),
            ),
            (
                "Reject, query",
                receiver(3, reject(Rejected::Query(4)), &[]),
            ),
            (
                "Reject, session",
                receiver(3, reject(Rejected::Session), &[]),
            ),
            ("Digests", receiver(4, Digests { id: 1, digests }, &[])),
            ("Listing", receiver(5, listing, &[])),
            ("Listing, no such directory", receiver(5, nothing, &[])),
            ("Signature", receiver(6, signature, &[0xab; 64])),
            (
                "Signature, no such file",
                receiver(
                    6,
                    Signature {
                        id: 3,
                        info: None,
                        last: true,
                    },
                    &[],
                ),
            ),
            (
                "Ids",
                receiver(
                    6,
                    Ids {
                        id: 5,
                        numbers: vec![1_001, 100],
                    },
                    &[],
                ),
            ),
            ("Credit", receiver(7, Credit { bytes: 1 << 20 }, &[])),
            ("Pong", receiver(8, Pong { token: 250 }, &[])),
            ("Draining", receiver(9, Draining { text: text() }, &[])),
        ],
        "receiver-frames.hex",
    );
}

#[test]
fn reject_codes() {
    let mut vectors = Vectors::default();
    for number in 0..64u8 {
        if let Ok(code) = syncd_proto::codec::decode::<RejectCode>(&[number]) {
            vectors.add(&format!("{code:?}: {code}"), &[number]);
        }
    }
    vectors.check("reject-codes.hex");
}

#[test]
fn chain_roots_and_signature() {
    let mut vectors = Vectors::default();
    let body = agent(0, commit(), &[]).body;
    let zero = chain::first_root(&[1; 32]);
    let one = chain::next_root(&zero, &body);
    let signature = signer().sign(&one).unwrap();
    verifier().verify(&one, &signature).unwrap();
    vectors.add("session", &[1; 32]);
    vectors.add("root 0", zero.as_bytes());
    vectors.add("commit body 1", &body);
    vectors.add("root 1", one.as_bytes());
    vectors.add(
        "root 2, after the same body again",
        chain::next_root(&one, &body).as_bytes(),
    );
    vectors.add("signed bytes of root 1", &chain::signed_bytes(&one));
    vectors.add("Ed25519 signature of root 1 (seed 00 01 .. 1f)", &signature);
    vectors.check("chain.hex");
}

#[test]
fn proofs() {
    let mut vectors = Vectors::default();
    let hello = agent(0, hello(), &[]).body;
    let challenge = receiver(0, Challenge { nonce: [0x22; 32] }, &[]).body;
    let agent_key = key_hash(&certificate()).unwrap();
    let receiver_key = Digest::of(b"the receiver's key");
    let transcript = Transcript {
        hello: &hello,
        challenge: &challenge,
        session: &[1; 32],
        agent_key: &agent_key,
        receiver_key: &receiver_key,
    }
    .digest();
    let key = password(b"secret");
    vectors.add("hello body", &hello);
    vectors.add("challenge body", &challenge);
    vectors.add("session", &[1; 32]);
    vectors.add("hash of the agent's key", agent_key.as_bytes());
    vectors.add("hash of the receiver's key", receiver_key.as_bytes());
    vectors.add("transcript", transcript.as_bytes());
    vectors.add(
        "agent's proof (alice, www, secret)",
        key.client_proof(&transcript).as_bytes(),
    );
    vectors.add("receiver's proof", key.server_proof(&transcript).as_bytes());
    vectors.check("auth.hex");
}

#[test]
fn directory_digests() {
    let mut vectors = Vectors::default();
    let digest = |compare, fill: &dyn Fn(&mut DirHasher)| {
        let mut hasher = DirHasher::new(compare, &entry(Kind::Dir, 0));
        fill(&mut hasher);
        hasher.finish()
    };
    let name = |text: &[u8]| Name::new(text).unwrap();
    let none = Compare {
        owner: false,
        mode_mask: 0,
        mtime: Times::Ignored,
        xattrs: Attributes::NONE,
        specials: false,
        devices: false,
        links: false,
    };
    let empty = digest(Compare::ALL, &|_| {});
    let full = |hasher: &mut DirHasher| {
        hasher.subtree(&name(b"d"), &empty).unwrap();
        hasher.file(&name(b"f"), &entry(Kind::File, 300)).unwrap();
        hasher.file(&name(b"l"), &entry(Kind::Symlink, 0)).unwrap();
        hasher.file(&name(b"p"), &entry(Kind::Fifo, 0)).unwrap();
    };
    vectors.add("an empty directory", empty.as_bytes());
    vectors.add(
        "directory, file, symlink, fifo",
        digest(Compare::ALL, &full).as_bytes(),
    );
    vectors.add("the same, comparing least", digest(none, &full).as_bytes());
    vectors.check("merkle.hex");
}

#[test]
fn groups_and_blocks() {
    let mut vectors = Vectors::default();
    let bytes: Vec<u8> = (0..150_000u32)
        .map(|at| (u64::from(at).pow(2) >> 7) as u8)
        .collect();
    let mut hasher = GroupHasher::for_len(bytes.len() as u64);
    hasher.update(&bytes);
    let (list, digest) = hasher.finish();
    let mut sums = Vec::new();
    sign_range(&bytes[..5_000], BlockSize::MIN, &mut sums);
    vectors.add(
        "digest of byte i = i * i / 128 mod 256, 150000 bytes",
        digest.as_bytes(),
    );
    vectors.add("its groups of 65536", &list.to_payload());
    vectors.add("sums of its first 5000 bytes in blocks of 2048", &sums);
    vectors.check("delta.hex");
}

/// The protocol's document, whose tables must be the code's.
fn document() -> String {
    let file = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../docs/PROTOCOL.md");
    std::fs::read_to_string(file).unwrap()
}

/// Cells of the rows of the table under this heading.
fn table(heading: &str) -> Vec<Vec<String>> {
    let text = document();
    let section = text
        .split(heading)
        .nth(1)
        .unwrap_or_else(|| panic!("no section {heading}"));
    let section = section.split("\n## ").next().unwrap();
    let rows = section
        .lines()
        .skip_while(|line| !line.starts_with('|'))
        .take_while(|line| line.starts_with('|'));
    let cells = |row: &str| {
        let cells = row.trim_matches('|').split('|');
        cells
            .map(|cell| cell.trim().trim_matches('`').to_owned())
            .collect()
    };
    rows.skip(2).map(cells).collect()
}

#[test]
fn the_document_lists_every_frame_type() {
    let mut documented: Vec<(u16, String)> = table("## Frame types")
        .into_iter()
        .map(|row| (row[0].parse().unwrap(), row[1].clone()))
        .collect();
    documented.sort();
    let mut known = Vec::new();
    for file in ["agent-frames.hex", "receiver-frames.hex"] {
        for (name, kind) in frame_types(file) {
            known.push((kind, name));
        }
    }
    known.sort();
    known.dedup();
    assert_eq!(documented, known);
    for kind in 0..=u16::MAX {
        let frame = Frame {
            seq: 0,
            kind,
            body: vec![0xff],
            payload: Vec::new(),
            packed: false,
        };
        let unknown = |error: String| error.starts_with("unknown frame type");
        let is_known = !unknown(AgentMessage::from_frame(&frame).unwrap_err().to_string())
            || !unknown(ReceiverMessage::from_frame(&frame).unwrap_err().to_string());
        assert_eq!(
            is_known,
            known.iter().any(|(known, _)| *known == kind),
            "{kind}"
        );
    }
}

/// Message names and types of the frames in a file of vectors.
fn frame_types(file: &str) -> Vec<(String, u16)> {
    let text = std::fs::read_to_string(folder().join(file)).unwrap();
    let mut found = Vec::new();
    let mut lines = text.lines().peekable();
    while let Some(name) = lines.next() {
        let mut hex = String::new();
        while let Some(line) = lines.next_if(|line| line.starts_with("  ")) {
            hex.push_str(line);
        }
        let bytes = golden::unhex(&hex);
        assert!(bytes.len() >= HEADER_BYTES);
        let kind = u16::from_le_bytes([bytes[16], bytes[17]]);
        let name = name.split([',', ' ']).next().unwrap();
        found.push((name.to_owned(), kind));
    }
    found
}

#[test]
fn the_document_lists_every_reject_code() {
    let documented: Vec<String> = table("## Reject codes")
        .into_iter()
        .map(|row| row[1].clone())
        .collect();
    let text = std::fs::read_to_string(folder().join("reject-codes.hex")).unwrap();
    let names = text.lines().filter(|line| !line.starts_with(' '));
    let known: Vec<String> = names
        .map(|line| line.split(':').next().unwrap().to_owned())
        .collect();
    assert_eq!(documented, known);
}

#[test]
fn the_document_has_the_limits_of_the_code() {
    let rows = table("## Limits");
    let known = [
        ("BODY_BYTES_MAX", limits::BODY_BYTES_MAX as u64),
        ("PAYLOAD_BYTES_MAX", limits::PAYLOAD_BYTES_MAX as u64),
        (
            "HANDSHAKE_BODY_BYTES_MAX",
            limits::HANDSHAKE_BODY_BYTES_MAX as u64,
        ),
        ("NAME_BYTES_MAX", limits::NAME_BYTES_MAX as u64),
        ("PATH_DEPTH_MAX", limits::PATH_DEPTH_MAX as u64),
        ("PATH_BYTES_MAX", limits::PATH_BYTES_MAX as u64),
        (
            "LINK_TARGET_BYTES_MAX",
            limits::LINK_TARGET_BYTES_MAX as u64,
        ),
        ("XATTRS_MAX", limits::XATTRS_MAX as u64),
        ("XATTR_NAME_BYTES_MAX", limits::XATTR_NAME_BYTES_MAX as u64),
        (
            "XATTR_VALUE_BYTES_MAX",
            limits::XATTR_VALUE_BYTES_MAX as u64,
        ),
        ("COMMIT_OPS_MAX", limits::COMMIT_OPS_MAX as u64),
        (
            "COMMIT_INLINE_BYTES_MAX",
            limits::COMMIT_INLINE_BYTES_MAX as u64,
        ),
        ("INLINE_FILE_BYTES_MAX", limits::INLINE_FILE_BYTES_MAX),
        ("SIGNATURE_BYTES_MAX", limits::SIGNATURE_BYTES_MAX as u64),
        ("CHUNK_OPS_MAX", limits::CHUNK_OPS_MAX as u64),
        ("CHUNK_OUTPUT_BYTES_MAX", limits::CHUNK_OUTPUT_BYTES_MAX),
        ("TRANSFERS_MAX", limits::TRANSFERS_MAX as u64),
        ("GROUP_BYTES", limits::GROUP_BYTES),
        ("GROUPS_MAX", limits::GROUPS_MAX),
        ("BLOCKS_MAX", limits::BLOCKS_MAX),
        ("SIGNATURE_RANGES_MAX", limits::SIGNATURE_RANGES_MAX as u64),
        ("LISTING_ENTRIES_MAX", limits::LISTING_ENTRIES_MAX as u64),
        ("LINK_NAMES_MAX", limits::LINK_NAMES_MAX as u64),
        ("SAME_NAMES_MAX", limits::SAME_NAMES_MAX as u64),
        ("DIGEST_PATHS_MAX", limits::DIGEST_PATHS_MAX as u64),
        ("ID_NAMES_MAX", limits::ID_NAMES_MAX as u64),
        ("TEXT_BYTES_MAX", limits::TEXT_BYTES_MAX as u64),
        ("LABEL_BYTES_MAX", limits::LABEL_BYTES_MAX as u64),
        ("MODULES_MAX", limits::MODULES_MAX as u64),
        (
            "COMMITS_IN_FLIGHT_MAX",
            u64::from(limits::COMMITS_IN_FLIGHT_MAX),
        ),
        ("LEFTOVERS_MAX", limits::LEFTOVERS_MAX as u64),
    ];
    let documented: Vec<(&str, u64)> = rows
        .iter()
        .map(|row| (row[0].as_str(), row[1].parse().unwrap()))
        .collect();
    assert_eq!(documented, known);
}
