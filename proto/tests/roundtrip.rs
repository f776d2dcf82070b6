//! Every message comes back as it went, every body that decodes has that one encoding, and every limit
//! holds exactly where it stands.

mod strategies;

use proptest::collection::vec;
use proptest::prelude::*;
use strategies::{agent_message, filler, frame_of, receiver_message};
use syncd_proto::attributes::Attributes;
use syncd_proto::digest::Digest;
use syncd_proto::error::DecodeError;
use syncd_proto::frame::{Deframer, Frame, FrameLimits, HEADER_BYTES, Header};
use syncd_proto::limits;
use syncd_proto::message::*;
use syncd_proto::meta::{Compare, EntryMeta, Kind, Meta, Mtime, Xattr};
use syncd_proto::op::{Content, IdKind, IdName, Op};
use syncd_proto::path::{Name, WirePath};
use syncd_proto::reject::RejectCode;

/// Decodes the message of a frame and encodes it again.
fn again(frame: &Frame) -> Result<Frame, DecodeError> {
    let mut body = Vec::new();
    if frame.kind < 128 {
        AgentMessage::from_frame(frame)?.encode_body(&mut body)?;
    } else {
        ReceiverMessage::from_frame(frame)?.encode_body(&mut body)?;
    }
    Ok(Frame {
        body,
        ..frame.clone()
    })
}

proptest! {
    #[test]
    fn an_agent_message_comes_back((message, payload_len) in agent_message()) {
        let mut body = Vec::new();
        message.encode_body(&mut body).unwrap();
        let frame = frame_of(message.kind(), body, payload_len);
        prop_assert_eq!(AgentMessage::from_frame(&frame).unwrap(), message);
    }

    #[test]
    fn a_receiver_message_comes_back((message, payload_len) in receiver_message()) {
        let mut body = Vec::new();
        message.encode_body(&mut body).unwrap();
        let frame = frame_of(message.kind(), body, payload_len);
        prop_assert_eq!(ReceiverMessage::from_frame(&frame).unwrap(), message);
    }

    #[test]
    fn a_damaged_body_is_another_message_or_an_error(
        (message, payload_len) in agent_message(),
        at in any::<prop::sample::Index>(),
        byte in any::<u8>(),
        cut in any::<bool>(),
    ) {
        let mut body = Vec::new();
        message.encode_body(&mut body).unwrap();
        if !body.is_empty() {
            let at = at.index(body.len());
            if cut { body.truncate(at) } else { body[at] = byte }
        }
        let frame = frame_of(message.kind(), body, payload_len);
        if let Ok(found) = again(&frame) {
            prop_assert_eq!(found, frame);
        }
    }

    #[test]
    fn arbitrary_bytes_are_a_message_in_its_one_encoding_or_an_error(
        kind in prop_oneof![1..=12u16, 129..=140u16, any::<u16>()],
        body in vec(prop_oneof![0..5u8, Just(251), Just(253), any::<u8>()], 0..200),
        payload_len in 0..30usize,
    ) {
        let frame = frame_of(kind, body, payload_len);
        if let Ok(found) = again(&frame) {
            prop_assert_eq!(found, frame);
        }
    }

    #[test]
    fn frames_come_out_whole_however_they_arrive(
        sizes in vec((0..200usize, 0..300usize), 0..6),
        cuts in vec(1..100usize, 1..20),
    ) {
        let mut wire = Vec::new();
        let sent: Vec<Frame> = sizes.iter().enumerate().map(|(seq, &(body, payload))| Frame {
            seq: seq as u64,
            kind: 11,
            body: filler(body),
            payload: filler(payload), packed: false, }).collect();
        sent.iter().for_each(|frame| frame.write_to(&mut wire));
        let mut deframer = Deframer::new(FrameLimits::SESSION, 0);
        let (mut rest, mut found) = (&wire[..], Vec::new());
        for cut in cuts.iter().cycle() {
            let (head, tail) = rest.split_at((*cut).min(rest.len()));
            deframer.feed(head);
            while let Some(frame) = deframer.next_frame().unwrap() {
                found.push(frame);
            }
            rest = tail;
            if rest.is_empty() { break }
        }
        prop_assert_eq!(found, sent);
    }

    #[test]
    fn a_deframer_never_panics(bytes in vec(prop_oneof![3 => Just(0u8), 1 => any::<u8>()], 0..200)) {
        let mut deframer = Deframer::new(FrameLimits::HANDSHAKE, 0);
        deframer.feed(&bytes);
        while let Ok(Some(frame)) = deframer.next_frame() {
            prop_assert!(frame.body.len() <= limits::HANDSHAKE_BODY_BYTES_MAX);
            prop_assert!(frame.payload.is_empty());
        }
    }
}

/// A message as kind, encoded body and length of its payload.
type Sent = (u16, Vec<u8>, usize);

fn agent(message: impl Into<AgentMessage>) -> Sent {
    agent_with(message, 0)
}

fn agent_with(message: impl Into<AgentMessage>, payload_len: usize) -> Sent {
    let (message, mut body) = (message.into(), Vec::new());
    message.encode_body(&mut body).unwrap();
    (message.kind(), body, payload_len)
}

fn receiver(message: impl Into<ReceiverMessage>) -> Sent {
    let (message, mut body) = (message.into(), Vec::new());
    message.encode_body(&mut body).unwrap();
    (message.kind(), body, 0)
}

fn accepted((kind, body, payload_len): Sent) -> bool {
    again(&frame_of(kind, body, payload_len)).is_ok()
}

/// Tries one below, at and one above `limit`: only the last must be refused.
fn at_limit(what: &str, limit: usize, make: impl Fn(usize) -> Sent) {
    for (size, fits) in [(limit - 1, true), (limit, true), (limit + 1, false)] {
        assert_eq!(accepted(make(size)), fits, "{what} of {size}");
    }
}

fn text(size: usize) -> String {
    "t".repeat(size)
}

fn hello() -> Hello {
    Hello {
        version_min: 1,
        version_max: 1,
        features: 0,
        purpose: Purpose::Mirror,
        module: Vec::new(),
        sub_path: WirePath::root(),
        attributes: Attributes::ALL,
        user: None,
        nonce: [0; 32],
        agent: String::new(),
    }
}

fn welcome() -> Welcome {
    Welcome {
        version: 1,
        features: 0,
        receiver: String::new(),
        proof: None,
        writable: true,
        compare: Compare::ALL,
        maps_names: false,
        durability: Durability::Batch,
        window_bytes: 0,
        window_commits: 1,
        instance: [0; 16],
        leftovers: Vec::new(),
    }
}

fn meta() -> Meta {
    Meta {
        mode: 0o644,
        uid: 0,
        gid: 0,
        mtime: Mtime::new(0, 0).unwrap(),
        xattrs: None,
    }
}

fn dir_meta() -> EntryMeta {
    EntryMeta {
        kind: Kind::Dir,
        mode: 0o755,
        uid: 0,
        gid: 0,
        mtime: Mtime::new(0, 0).unwrap(),
        size: 0,
        rdev: (0, 0),
        content: None,
        xattrs: None,
    }
}

fn commit(ops: Vec<Op>) -> Commit {
    Commit {
        module: Vec::new(),
        session: [0; 32],
        seq: 1,
        ops,
    }
}

fn mkdir(meta: Meta) -> Commit {
    let path = WirePath::root();
    commit(vec![Op::Mkdir { path, meta }])
}

fn with_xattrs(xattrs: Vec<Xattr>) -> Commit {
    mkdir(Meta {
        xattrs: Some(xattrs),
        ..meta()
    })
}

fn xattr(name: &[u8], value: usize) -> Xattr {
    let (name, value) = (name.to_vec(), filler(value));
    Xattr { name, value }
}

fn symlink(target: Vec<u8>) -> Commit {
    let path = WirePath::root();
    let meta = meta();
    commit(vec![Op::Symlink { path, meta, target }])
}

fn put(len: usize) -> Op {
    let digest = Digest::empty();
    let len = len as u32;
    Op::Put {
        path: WirePath::root(),
        meta: meta(),
        content: Content::Inline { len, digest },
    }
}

fn chunk(ops: Vec<PatchOp>) -> StageChunk {
    StageChunk { transfer: 1, ops }
}

fn blocks(block_bytes: u32, ranges: Vec<(u64, u64)>) -> SignatureQuery {
    let version = [0; 16];
    SignatureQuery {
        id: 1,
        path: WirePath::root(),
        want: SignatureWant::Blocks {
            version,
            block_bytes,
            ranges,
        },
    }
}

fn listing(names: impl Iterator<Item = String>) -> Listing {
    let entry = |name: String| ListEntry {
        name: Name::new(name.as_bytes()).unwrap(),
        meta: dir_meta(),
        subtree: None,
        links: None,
    };
    Listing {
        id: 1,
        dir: Some(dir_meta()),
        entries: names.map(entry).collect(),
        last: true,
    }
}

#[test]
fn limits_of_hello_and_modules() {
    let (label, line) = (limits::LABEL_BYTES_MAX, limits::TEXT_BYTES_MAX);
    at_limit("module name", label, |size| {
        let module = filler(size);
        agent(Hello { module, ..hello() })
    });
    at_limit("user name", label, |size| {
        let user = Some(filler(size));
        agent(Hello { user, ..hello() })
    });
    at_limit("agent name", line, |size| {
        let agent_name = text(size);
        agent(Hello {
            agent: agent_name,
            ..hello()
        })
    });
    let modules = |count, name, comment| {
        let (name, comment) = (filler(name), filler(comment));
        receiver(Modules {
            modules: vec![ModuleLine { name, comment }; count],
        })
    };
    at_limit("module list", limits::MODULES_MAX, |size| {
        modules(size, 1, 0)
    });
    at_limit("listed name", label, |size| modules(1, size, 0));
    at_limit("comment", line, |size| modules(1, 1, size));
}

#[test]
fn limits_of_welcome() {
    at_limit("leftovers", limits::LEFTOVERS_MAX, |size| {
        let key = Digest::empty();
        let leftovers = vec![Leftover { key, bytes: 1 }; size];
        receiver(Welcome {
            leftovers,
            ..welcome()
        })
    });
    at_limit("receiver name", limits::TEXT_BYTES_MAX, |size| {
        let name = text(size);
        receiver(Welcome {
            receiver: name,
            ..welcome()
        })
    });
    at_limit(
        "commit window",
        limits::COMMITS_IN_FLIGHT_MAX as usize,
        |size| {
            let window_commits = size as u32;
            receiver(Welcome {
                window_commits,
                ..welcome()
            })
        },
    );
    at_limit("mode mask", 0o7777, |size| {
        let compare = Compare {
            mode_mask: size as u16,
            ..Compare::ALL
        };
        receiver(Welcome {
            compare,
            ..welcome()
        })
    });
}

#[test]
fn limits_of_texts() {
    let (most, code) = (limits::TEXT_BYTES_MAX, RejectCode::Other);
    at_limit("bye", most, |size| agent(Bye { text: text(size) }));
    at_limit("refused", most, |size| {
        receiver(Refused {
            code,
            text: text(size),
        })
    });
    at_limit("draining", most, |size| {
        receiver(Draining { text: text(size) })
    });
    at_limit("reject", most, |size| {
        let what = Rejected::Session;
        receiver(Reject {
            what,
            code,
            text: text(size),
        })
    });
}

/// Paths are encoded without `WirePath`, which could not hold them: arrays of byte strings.
#[test]
fn limits_of_paths() {
    let raw = |names: Vec<Vec<u8>>| {
        let mut body = Vec::new();
        syncd_proto::codec::encode(&(1u64, vec![names], false), &mut body).unwrap();
        (8, body, 0)
    };
    at_limit("name", limits::NAME_BYTES_MAX, |size| {
        raw(vec![filler(size)])
    });
    at_limit("depth", limits::PATH_DEPTH_MAX, |size| {
        raw(vec![b"d".to_vec(); size])
    });
    at_limit("length", limits::PATH_BYTES_MAX, |size| {
        // Names of 255 bytes, each with its separator, and one that fills the rest.
        let mut names = vec![filler(255); 255];
        names.push(filler(100));
        names.push(filler(size - 255 * 256 - 101 - 1));
        raw(names)
    });
    at_limit("paths", limits::DIGEST_PATHS_MAX, |size| {
        let paths = vec![WirePath::root(); size];
        agent(DigestQuery {
            id: 1,
            paths,
            content: false,
        })
    });
    at_limit("digests", limits::DIGEST_PATHS_MAX, |size| {
        receiver(Digests {
            id: 1,
            digests: vec![None; size],
        })
    });
}

#[test]
fn limits_of_a_commit() {
    at_limit("operations", limits::COMMIT_OPS_MAX, |size| {
        let path = WirePath::root();
        agent(commit(vec![
            Op::Remove {
                path,
                recursive: false
            };
            size
        ]))
    });
    at_limit("module", limits::LABEL_BYTES_MAX, |size| {
        let module = filler(size);
        agent(Commit {
            module,
            ..commit(Vec::new())
        })
    });
    at_limit("link target", limits::LINK_TARGET_BYTES_MAX, |size| {
        agent(symlink(filler(size)))
    });
    at_limit("mode", 0o7777, |size| {
        agent(mkdir(Meta {
            mode: size as u16,
            ..meta()
        }))
    });
    let inline = limits::INLINE_FILE_BYTES_MAX as usize;
    at_limit("inline file", inline, |size| agent(commit(vec![put(size)])));
    at_limit("file to be compared", inline, |size| {
        agent(commit(vec![Op::Same {
            path: WirePath::root(),
            len: size as u32,
            digest: Digest::empty(),
            meta: meta(),
            names: Vec::new(),
        }]))
    });
    at_limit("other names", limits::SAME_NAMES_MAX, |size| {
        agent(commit(vec![Op::Same {
            path: WirePath::root(),
            len: 0,
            digest: Digest::empty(),
            meta: meta(),
            names: vec![WirePath::root(); size],
        }]))
    });
    at_limit("inline content", limits::COMMIT_INLINE_BYTES_MAX, |size| {
        let mut ops = vec![put(inline); 15];
        ops.push(put(size - 15 * inline));
        agent(commit(ops))
    });
    at_limit("payload", limits::PAYLOAD_BYTES_MAX, |size| {
        agent_with(commit(Vec::new()), size)
    });
}

#[test]
fn limits_of_ids() {
    let named = |count, size| {
        let (kind, id, name) = (IdKind::User, 1, filler(size));
        let names = vec![IdName { kind, id, name }; count];
        agent(IdQuery { id: 1, names })
    };
    at_limit("names", limits::ID_NAMES_MAX, |size| named(size, 1));
    at_limit("id name", limits::LABEL_BYTES_MAX, |size| named(1, size));
    at_limit("numbers", limits::ID_NAMES_MAX, |size| {
        let numbers = vec![7; size];
        receiver(Ids { id: 1, numbers })
    });
}

#[test]
fn limits_of_attributes() {
    at_limit("attributes", limits::XATTRS_MAX, |size| {
        let numbered = (0..size).map(|at| xattr(format!("{at:04}").as_bytes(), 0));
        agent(with_xattrs(numbered.collect()))
    });
    at_limit("attribute name", limits::XATTR_NAME_BYTES_MAX, |size| {
        agent(with_xattrs(vec![xattr(&filler(size), 0)]))
    });
    at_limit("attribute values", limits::XATTR_VALUE_BYTES_MAX, |size| {
        let half = size / 2;
        agent(with_xattrs(vec![
            xattr(b"a", half),
            xattr(b"b", size - half),
        ]))
    });
}

#[test]
fn limits_of_a_chunk() {
    at_limit("instructions", limits::CHUNK_OPS_MAX, |size| {
        agent(chunk(vec![PatchOp::Hole { len: 1 }; size]))
    });
    at_limit("output", limits::CHUNK_OUTPUT_BYTES_MAX as usize, |size| {
        let len = size as u64 - 5;
        agent(chunk(vec![
            PatchOp::Copy { from: 0, len },
            PatchOp::Hole { len: 5 },
        ]))
    });
    let literal = |size| vec![PatchOp::Literal { len: size as u32 }];
    at_limit("literals", limits::PAYLOAD_BYTES_MAX, |size| {
        agent_with(chunk(literal(size)), size)
    });
}

#[test]
fn limits_of_signatures_and_listings() {
    at_limit("ranges", limits::SIGNATURE_RANGES_MAX, |size| {
        agent(blocks(
            2_048,
            (0..size as u64).map(|at| (at * 4_096, 2_048)).collect(),
        ))
    });
    at_limit("blocks", limits::BLOCKS_MAX as usize, |size| {
        agent(blocks(2_048, vec![(0, size as u64 * 2_048)]))
    });
    at_limit("block size", 4 << 20, |size| {
        agent(blocks(size as u32, vec![(0, 1)]))
    });
    assert!(accepted(agent(blocks(2_048, Vec::new()))));
    assert!(!accepted(agent(blocks(2_047, Vec::new()))));
    at_limit("signature", limits::PAYLOAD_BYTES_MAX, |size| {
        let (version, mtime) = ([0; 16], Mtime::new(0, 0).unwrap());
        let info = Some(SignatureInfo {
            version,
            len: 1,
            mtime,
            content: None,
        });
        let (kind, body, _) = receiver(Signature {
            id: 1,
            info,
            last: true,
        });
        (kind, body, size)
    });
    at_limit("listing", limits::LISTING_ENTRIES_MAX, |size| {
        receiver(listing((0..size).map(|at| format!("{at:05}"))))
    });
}

#[test]
fn limits_of_a_frame() {
    for (limits, kind) in [(FrameLimits::HANDSHAKE, 1), (FrameLimits::SESSION, 7)] {
        for (more, fits) in [(0, true), (1, false)] {
            for (body, payload) in [(limits.body + more, 0), (0, limits.payload + more)] {
                let frame = Frame {
                    seq: 0,
                    kind,
                    body: filler(body),
                    payload: filler(payload),
                    packed: false,
                };
                let (mut deframer, mut wire) = (Deframer::new(limits, 0), Vec::new());
                frame.write_to(&mut wire);
                deframer.feed(&wire);
                assert_eq!(deframer.next_frame().is_ok(), fits, "{body} {payload}");
            }
        }
    }
}

#[test]
fn a_compressed_payload_needs_an_agreement_and_bytes() {
    for (limits, packed, payload, fits) in [
        (FrameLimits::PACKED, true, 9, true),
        (FrameLimits::PACKED, false, 9, true),
        (FrameLimits::PACKED, true, 0, false),
        (FrameLimits::SESSION, true, 9, false),
        (FrameLimits::HANDSHAKE, true, 0, false),
    ] {
        let frame = Frame {
            seq: 0,
            kind: 7,
            body: Vec::new(),
            payload: filler(payload),
            packed,
        };
        let (mut deframer, mut wire) = (Deframer::new(limits, 0), Vec::new());
        frame.write_to(&mut wire);
        deframer.feed(&wire);
        let found = deframer.next_frame();
        assert_eq!(found.is_ok(), fits, "{packed} {payload}");
        assert!(!fits || found == Ok(Some(frame)));
    }
    for flags in [2, 3, 0x100, 0x101, 0xffff] {
        let mut header = [0; HEADER_BYTES];
        header[18..].copy_from_slice(&u16::to_le_bytes(flags));
        let found = Header::parse(&header, FrameLimits::PACKED);
        assert_eq!(found, Err(DecodeError::Invalid("frame header")), "{flags}");
    }
}

#[test]
fn no_payload_where_none_belongs() {
    let (code, proof) = (RejectCode::Other, Digest::empty());
    let ack = Ack {
        applied: 1,
        durable: 1,
        root: proof,
    };
    for (kind, body, _) in [
        agent(hello()),
        agent(Answer { proof }),
        agent(StageAbort { transfer: 1 }),
        agent(StageEnd {
            transfer: 1,
            len: 0,
            digest: proof,
        }),
        agent(DigestQuery {
            id: 1,
            paths: Vec::new(),
            content: false,
        }),
        agent(ListQuery {
            id: 1,
            path: WirePath::root(),
            content: false,
        }),
        agent(blocks(2_048, Vec::new())),
        agent(Ping { token: 1 }),
        agent(Bye { text: text(0) }),
        receiver(Challenge { nonce: [0; 32] }),
        receiver(welcome()),
        receiver(Refused {
            code,
            text: text(0),
        }),
        receiver(Modules {
            modules: Vec::new(),
        }),
        receiver(ack),
        receiver(Reject {
            what: Rejected::Session,
            code,
            text: text(0),
        }),
        receiver(Digests {
            id: 1,
            digests: Vec::new(),
        }),
        receiver(listing(std::iter::empty())),
        receiver(Signature {
            id: 1,
            info: None,
            last: true,
        }),
        receiver(Credit { bytes: 1 }),
        receiver(Pong { token: 1 }),
        receiver(Draining { text: text(0) }),
    ] {
        assert!(accepted((kind, body.clone(), 0)), "{kind}");
        assert!(!accepted((kind, body, 1)), "{kind}");
    }
}

#[test]
fn what_the_types_allow_and_the_protocol_does_not() {
    let special = |kind| {
        let (path, meta, rdev) = (WirePath::root(), meta(), (0, 0));
        agent(commit(vec![Op::Special {
            path,
            meta,
            kind,
            rdev,
        }]))
    };
    let names = |names: &[&str]| receiver(listing(names.iter().map(ToString::to_string)));
    let root = Digest::empty();
    let begin = StageBegin {
        transfer: 1,
        len_hint: 0,
        basis: None,
        key: None,
        resume_at: 1,
    };
    for (at, bad) in [
        agent(with_xattrs(vec![xattr(b"b", 0), xattr(b"a", 0)])),
        agent(with_xattrs(vec![xattr(b"a", 0), xattr(b"a", 1)])),
        agent(with_xattrs(vec![xattr(b"", 0)])),
        agent(with_xattrs(vec![xattr(b"a\0", 0)])),
        agent(chunk(vec![PatchOp::Literal { len: 0 }])),
        agent(chunk(vec![PatchOp::Hole { len: 0 }])),
        agent(chunk(vec![PatchOp::Copy { from: 0, len: 0 }])),
        agent(chunk(vec![PatchOp::Copy {
            from: u64::MAX,
            len: 1,
        }])),
        agent(chunk(vec![PatchOp::Literal { len: 1 }])),
        agent(blocks(2_048, vec![(1, 2_048)])),
        agent(blocks(2_048, vec![(0, 4_096), (2_048, 1)])),
        agent(blocks(2_048, vec![(2_048, u64::MAX)])),
        special(Kind::File),
        special(Kind::Dir),
        special(Kind::Symlink),
        agent(symlink(Vec::new())),
        agent(symlink(b"a\0b".to_vec())),
        agent(begin),
        receiver(Ack {
            applied: 1,
            durable: 2,
            root,
        }),
        receiver(Signature {
            id: 1,
            info: None,
            last: false,
        }),
        receiver(Listing {
            dir: None,
            last: false,
            ..listing(std::iter::empty())
        }),
        names(&["b", "a"]),
        names(&["a", "a"]),
    ]
    .into_iter()
    .enumerate()
    {
        assert!(!accepted(bad), "case {at}");
    }
}

#[test]
fn a_body_of_many_deep_paths_decodes_within_its_memory() {
    let deep = WirePath::from_names(vec![Name::new(b"d").unwrap(); limits::PATH_DEPTH_MAX]);
    let path = deep.unwrap();
    let message = AgentMessage::from(commit(vec![
        Op::Remove {
            path,
            recursive: true
        };
        255
    ]));
    let (kind, body, _) = agent(message.clone());
    assert!(body.len() > limits::BODY_BYTES_MAX * 99 / 100);
    assert_eq!(
        AgentMessage::from_frame(&frame_of(kind, body, 0)),
        Ok(message)
    );
}
