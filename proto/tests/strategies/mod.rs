//! Valid messages of every type, for the property tests.

use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use syncd_proto::attributes::Attributes;
use syncd_proto::digest::Digest;
use syncd_proto::frame::Frame;
use syncd_proto::limits::INLINE_FILE_BYTES_MAX;
use syncd_proto::message::*;
use syncd_proto::meta::{Compare, EntryMeta, Kind, Meta, Mtime, Times, Xattr};
use syncd_proto::op::{Content, Expect, IdKind, IdName, Op};
use syncd_proto::path::{Name, WirePath};
use syncd_proto::reject::RejectCode;

/// So many bytes that are valid anywhere.
pub(crate) fn filler(size: usize) -> Vec<u8> {
    vec![b'x'; size]
}

/// A frame with a payload of this length.
pub(crate) fn frame_of(kind: u16, body: Vec<u8>, payload_len: usize) -> Frame {
    let payload = filler(payload_len);
    Frame {
        seq: 0,
        kind,
        body,
        payload,
        packed: false,
    }
}

fn number() -> impl Strategy<Value = u64> + Clone {
    prop_oneof![
        0..260u64,
        65_530..65_540u64,
        any::<u32>().prop_map(u64::from),
        any::<u64>()
    ]
}

fn small() -> impl Strategy<Value = u32> + Clone {
    number().prop_map(|number| number as u32)
}

fn digest() -> impl Strategy<Value = Digest> + Clone {
    any::<[u8; 32]>().prop_map(Digest::from_bytes)
}

fn bytes(most: usize) -> impl Strategy<Value = Vec<u8>> + Clone {
    vec(any::<u8>(), 0..most)
}

fn text() -> impl Strategy<Value = String> + Clone {
    "[a-zé☃ ]{0,40}"
}

fn name() -> impl Strategy<Value = Name> + Clone {
    let byte = any::<u8>().prop_map(|byte| {
        if byte == b'/' || byte == 0 {
            b'x'
        } else {
            byte
        }
    });
    vec(byte, 1..256)
        .prop_map(|bytes| Name::new(&bytes).unwrap_or_else(|| Name::new(b"dots").expect("a name")))
}

fn path() -> impl Strategy<Value = WirePath> + Clone {
    vec(name(), 0..6).prop_map(|names| WirePath::from_names(names).expect("short"))
}

fn mtime() -> impl Strategy<Value = Mtime> + Clone {
    (any::<i64>(), 0..1_000_000_000u32).prop_map(|(s, n)| Mtime::new(s, n).expect("in range"))
}

fn kind() -> impl Strategy<Value = Kind> + Clone {
    prop_oneof![
        Just(Kind::File),
        Just(Kind::Dir),
        Just(Kind::Symlink),
        special_kind()
    ]
}

fn special_kind() -> impl Strategy<Value = Kind> + Clone {
    prop_oneof![
        Just(Kind::Fifo),
        Just(Kind::Socket),
        Just(Kind::CharDevice),
        Just(Kind::BlockDevice),
    ]
}

fn xattrs() -> impl Strategy<Value = Vec<Xattr>> + Clone {
    let names = "user\\.[a-z]{1,20}".prop_map(String::into_bytes);
    proptest::collection::btree_map(names, bytes(60), 0..5).prop_map(|map| {
        let pairs = map.into_iter();
        pairs.map(|(name, value)| Xattr { name, value }).collect()
    })
}

fn meta() -> impl Strategy<Value = Meta> + Clone {
    (
        0..=0o7777u16,
        small(),
        small(),
        mtime(),
        option::of(xattrs()),
    )
        .prop_map(|(mode, uid, gid, mtime, xattrs)| Meta {
            mode,
            uid,
            gid,
            mtime,
            xattrs,
        })
}

fn entry_meta() -> impl Strategy<Value = EntryMeta> + Clone {
    let rest = (
        number(),
        (small(), small()),
        option::of(digest()),
        option::of(digest()),
    );
    (kind(), meta(), rest).prop_map(|(kind, meta, (size, rdev, content, xattrs))| EntryMeta {
        kind,
        mode: meta.mode,
        uid: meta.uid,
        gid: meta.gid,
        mtime: meta.mtime,
        size,
        rdev,
        content,
        xattrs,
    })
}

fn content() -> impl Strategy<Value = Content> + Clone {
    prop_oneof![
        (0..=128u32 << 10, digest()).prop_map(|(len, digest)| Content::Inline { len, digest }),
        (number(), number(), digest()).prop_map(|(transfer, len, digest)| Content::Staged {
            transfer,
            len,
            digest
        }),
    ]
}

fn expect() -> impl Strategy<Value = Expect> + Clone {
    (kind(), number(), option::of(mtime())).prop_map(|(kind, size, mtime)| Expect {
        kind,
        size,
        mtime,
    })
}

fn op() -> impl Strategy<Value = Op> + Clone {
    let target = vec(1..=255u8, 1..80);
    prop_oneof![
        (path(), meta(), content()).prop_map(|(path, meta, content)| Op::Put {
            path,
            meta,
            content
        }),
        (path(), meta()).prop_map(|(path, meta)| Op::Mkdir { path, meta }),
        (path(), meta(), target).prop_map(|(path, meta, target)| Op::Symlink {
            path,
            meta,
            target
        }),
        (path(), path()).prop_map(|(path, to)| Op::Link { path, to }),
        (path(), meta(), special_kind(), (small(), small())).prop_map(
            |(path, meta, kind, rdev)| Op::Special {
                path,
                meta,
                kind,
                rdev
            }
        ),
        (path(), path(), option::of(expect())).prop_map(|(from, to, expect)| Op::Rename {
            from,
            to,
            expect
        }),
        (path(), path()).prop_map(|(a, b)| Op::Exchange { a, b }),
        (path(), any::<bool>()).prop_map(|(path, recursive)| Op::Remove { path, recursive }),
        (path(), kind(), number(), meta()).prop_map(|(path, kind, size, meta)| Op::SetMeta {
            path,
            kind,
            size,
            meta
        }),
        same(),
    ]
}

fn same() -> impl Strategy<Value = Op> + Clone {
    let len = 0..=INLINE_FILE_BYTES_MAX as u32;
    (path(), len, digest(), meta(), vec(path(), 0..4)).prop_map(
        |(path, len, digest, meta, names)| Op::Same {
            path,
            len,
            digest,
            meta,
            names,
        },
    )
}

fn id_name() -> impl Strategy<Value = IdName> + Clone {
    (any::<bool>(), small(), bytes(40)).prop_map(|(user, id, name)| IdName {
        kind: if user { IdKind::User } else { IdKind::Group },
        id,
        name,
    })
}

fn hello() -> impl Strategy<Value = Hello> {
    let purpose = prop_oneof![
        Just(Purpose::Mirror),
        Just(Purpose::Compare),
        Just(Purpose::ListModules)
    ];
    let head = (any::<u16>(), any::<u16>(), number(), purpose);
    let tail = (
        bytes(100),
        path(),
        attributes(),
        option::of(bytes(60)),
        any::<[u8; 32]>(),
        text(),
    );
    (head, tail).prop_map(
        |(head, (module, sub_path, attributes, user, nonce, agent))| Hello {
            version_min: head.0,
            version_max: head.1,
            features: head.2,
            purpose: head.3,
            module,
            sub_path,
            attributes,
            user,
            nonce,
            agent,
        },
    )
}

fn stage_begin() -> impl Strategy<Value = StageBegin> {
    let basis = (path(), any::<[u8; 16]>(), number()).prop_map(|(path, version, len)| Basis {
        path,
        version,
        len,
    });
    (
        number(),
        number(),
        option::of(basis),
        option::of(digest()),
        number(),
    )
        .prop_map(|(transfer, len_hint, basis, key, at)| StageBegin {
            transfer,
            len_hint,
            basis,
            resume_at: if key.is_some() { at } else { 0 },
            key,
        })
}

/// With the payload length that belongs to it.
fn stage_chunk() -> impl Strategy<Value = (StageChunk, usize)> {
    let op = prop_oneof![
        (1..5_000u32).prop_map(|len| PatchOp::Literal { len }),
        (number(), 1..1u64 << 20).prop_map(|(from, len)| PatchOp::Copy {
            from: from / 2,
            len
        }),
        (1..1u64 << 20).prop_map(|len| PatchOp::Hole { len }),
    ];
    (number(), vec(op, 0..40)).prop_map(|(transfer, ops)| {
        let literals = ops.iter().map(|op| match op {
            PatchOp::Literal { len } => *len,
            _ => 0,
        });
        let carried: u32 = literals.sum();
        (StageChunk { transfer, ops }, carried as usize)
    })
}

fn commit() -> impl Strategy<Value = Commit> {
    (bytes(60), any::<[u8; 32]>(), number(), vec(op(), 0..12)).prop_map(
        |(module, session, seq, ops)| Commit {
            module,
            session,
            seq,
            ops,
        },
    )
}

fn signature_want() -> impl Strategy<Value = SignatureWant> {
    let blocks = (
        any::<[u8; 16]>(),
        2_048..=4u32 << 20,
        vec((0..9u64, 1..9u64), 0..20),
    );
    prop_oneof![
        Just(SignatureWant::Groups),
        Just(SignatureWant::Version),
        blocks.prop_map(|(version, block_bytes, steps)| {
            let mut at = 0;
            let ranges = steps.iter().map(|(gap, len)| {
                let start = at + gap * u64::from(block_bytes);
                at = start + len * u64::from(block_bytes);
                (start, at - start)
            });
            SignatureWant::Blocks {
                version,
                block_bytes,
                ranges: ranges.collect(),
            }
        }),
    ]
}

/// Any agent message, and the length of its payload.
pub(crate) fn agent_message() -> impl Strategy<Value = (AgentMessage, usize)> {
    fn plain<M: Into<AgentMessage>>(message: M) -> (AgentMessage, usize) {
        (message.into(), 0)
    }
    prop_oneof![
        hello().prop_map(plain),
        digest().prop_map(|proof| plain(Answer { proof })),
        stage_begin().prop_map(plain),
        stage_chunk().prop_map(|(chunk, payload)| (chunk.into(), payload)),
        (number(), number(), digest()).prop_map(|(transfer, len, digest)| plain(StageEnd {
            transfer,
            len,
            digest
        })),
        number().prop_map(|transfer| plain(StageAbort { transfer })),
        (commit(), 0..300usize).prop_map(|(commit, payload)| (commit.into(), payload)),
        (number(), vec(path(), 0..6), any::<bool>())
            .prop_map(|(id, paths, content)| plain(DigestQuery { id, paths, content })),
        (number(), path(), any::<bool>()).prop_map(|(id, path, content)| plain(ListQuery {
            id,
            path,
            content
        })),
        (number(), path(), signature_want()).prop_map(|(id, path, want)| plain(SignatureQuery {
            id,
            path,
            want
        })),
        (number(), vec(id_name(), 0..5)).prop_map(|(id, names)| plain(IdQuery { id, names })),
        number().prop_map(|token| plain(Ping { token })),
        text().prop_map(|text| plain(Bye { text })),
    ]
}

fn code() -> impl Strategy<Value = RejectCode> {
    use RejectCode as C;
    proptest::sample::select(vec![
        C::Version,
        C::UnknownModule,
        C::HostDenied,
        C::CertificateDenied,
        C::TooManyConnections,
        C::AuthFailed,
        C::ReadOnly,
        C::Busy,
        C::ModuleUnavailable,
        C::Draining,
        C::Protocol,
        C::NoSpace,
        C::Quota,
        C::ReadOnlyFilesystem,
        C::Io,
        C::Permission,
        C::Immutable,
        C::BadName,
        C::ReservedName,
        C::NoParent,
        C::NotADirectory,
        C::NotEmpty,
        C::Mismatch,
        C::NoBasis,
        C::BadContent,
        C::Unsupported,
        C::TooLarge,
        C::DeleteHeld,
        C::Other,
        C::Attributes,
    ])
}

fn attributes() -> impl Strategy<Value = Attributes> {
    any::<[bool; 4]>().prop_map(|[user, trusted, acls, capabilities]| Attributes {
        user,
        trusted,
        acls,
        capabilities,
    })
}

fn compare() -> impl Strategy<Value = Compare> {
    let times = prop_oneof![
        Just(Times::Ignored),
        Just(Times::Nanos),
        Just(Times::Micros),
        Just(Times::Seconds),
        Just(Times::TwoSeconds)
    ];
    (any::<[bool; 4]>(), times, attributes(), 0..=0o7777u16).prop_map(
        |([owner, specials, devices, links], mtime, xattrs, mode_mask)| Compare {
            owner,
            mode_mask,
            mtime,
            xattrs,
            specials,
            devices,
            links,
        },
    )
}

fn welcome() -> impl Strategy<Value = Welcome> {
    let durability = prop_oneof![
        Just(Durability::Batch),
        Just(Durability::Files),
        Just(Durability::None)
    ];
    let leftover = (digest(), number()).prop_map(|(key, bytes)| Leftover { key, bytes });
    let head = (
        any::<u16>(),
        number(),
        text(),
        option::of(digest()),
        any::<bool>(),
        any::<bool>(),
    );
    let tail = (
        number(),
        0..=4_096u32,
        any::<[u8; 16]>(),
        vec(leftover, 0..4),
    );
    (head, compare(), durability, tail).prop_map(|(head, compare, durability, tail)| Welcome {
        version: head.0,
        features: head.1,
        receiver: head.2,
        proof: head.3,
        writable: head.4,
        compare,
        maps_names: head.5,
        durability,
        window_bytes: tail.0,
        window_commits: tail.1,
        instance: tail.2,
        leftovers: tail.3,
    })
}

fn rejected() -> impl Strategy<Value = Rejected> {
    prop_oneof![
        (number(), small()).prop_map(|(seq, index)| Rejected::Op { seq, index }),
        number().prop_map(Rejected::Transfer),
        number().prop_map(Rejected::Query),
        Just(Rejected::Session),
    ]
}

fn listing() -> impl Strategy<Value = Listing> {
    let entries =
        proptest::collection::btree_map(name(), (entry_meta(), option::of(digest())), 0..6);
    (number(), option::of(entry_meta()), entries, any::<bool>()).prop_map(
        |(id, dir, entries, last)| {
            let entries = entries.into_iter();
            let entries = entries.map(|(name, (meta, subtree))| ListEntry {
                name,
                links: subtree.filter(|_| meta.kind == Kind::File),
                meta,
                subtree,
            });
            let entries = if dir.is_some() {
                entries.collect()
            } else {
                Vec::new()
            };
            Listing {
                id,
                last: last || dir.is_none(),
                dir,
                entries,
            }
        },
    )
}

fn signature() -> impl Strategy<Value = (Signature, usize)> {
    let info = (any::<[u8; 16]>(), number(), mtime(), option::of(digest())).prop_map(
        |(version, len, mtime, content)| SignatureInfo {
            version,
            len,
            mtime,
            content,
        },
    );
    (number(), option::of(info), any::<bool>(), 0..300usize).prop_map(
        |(id, info, last, payload)| {
            let payload = if info.is_some() { payload } else { 0 };
            let last = last || info.is_none();
            (Signature { id, info, last }, payload)
        },
    )
}

/// Any receiver message, and the length of its payload.
pub(crate) fn receiver_message() -> impl Strategy<Value = (ReceiverMessage, usize)> {
    fn plain<M: Into<ReceiverMessage>>(message: M) -> (ReceiverMessage, usize) {
        (message.into(), 0)
    }
    let line = (bytes(60), bytes(60)).prop_map(|(name, comment)| ModuleLine { name, comment });
    prop_oneof![
        any::<[u8; 32]>().prop_map(|nonce| plain(Challenge { nonce })),
        welcome().prop_map(plain),
        (code(), text()).prop_map(|(code, text)| plain(Refused { code, text })),
        vec(line, 0..5).prop_map(|modules| plain(Modules { modules })),
        (number(), number(), digest()).prop_map(|(a, b, root)| {
            plain(Ack {
                applied: a.max(b),
                durable: a.min(b),
                root,
            })
        }),
        (rejected(), code(), text()).prop_map(|(what, code, text)| plain(Reject {
            what,
            code,
            text
        })),
        (number(), vec(option::of(digest()), 0..5))
            .prop_map(|(id, digests)| plain(Digests { id, digests })),
        listing().prop_map(plain),
        signature().prop_map(|(signature, payload)| (signature.into(), payload)),
        (number(), vec(small(), 0..5)).prop_map(|(id, numbers)| plain(Ids { id, numbers })),
        number().prop_map(|bytes| plain(Credit { bytes })),
        number().prop_map(|token| plain(Pong { token })),
        text().prop_map(|text| plain(Draining { text })),
    ]
}
