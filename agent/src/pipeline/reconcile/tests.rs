//! Comparisons with a receiver that says what the test wants.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::time::Instant;

use rustls::crypto::ring::sign::any_supported_type;
use rustls_pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use syncd_proto::attributes::Attributes;
use syncd_proto::chain::CommitSigner;
use syncd_proto::digest::Digest;
use syncd_proto::exchange::agent::{Channel, Reply, connect};
use syncd_proto::frame::{Frame, FrameLimits};
use syncd_proto::message::{
    AgentMessage, Digests, Durability, Hello, ListEntry, Listing, Purpose, ReceiverMessage,
    Signature, Welcome,
};
use syncd_proto::path::Name;

use super::walk::TOGETHER_MAX;
use super::*;
use crate::fs::root::SourceRoot;
use crate::logic::brake::{Brake, DeleteLimit};
use crate::logic::coalesce::Settle;
use crate::logic::filter::Rules;
use crate::net::framing::{FrameReader, FrameWriter};
use crate::pipeline::selection::Selection;

/// An Ed25519 key in PKCS #8, worth nothing.
fn signer() -> CommitSigner {
    let head = [
        0x30, 0x2e, 0x02, 0x01, 0x00, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x04, 0x22, 0x04,
        0x20,
    ];
    let der = [&head[..], &[7; 32]].concat();
    let key = any_supported_type(&PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(der)));
    CommitSigner::new(&*key.unwrap()).unwrap()
}

/// The frame of a message without a payload.
pub(in crate::pipeline) fn frame(seq: u64, message: &ReceiverMessage) -> Frame {
    let mut body = Vec::new();
    message.encode_body(&mut body).unwrap();
    Frame {
        seq,
        kind: message.kind(),
        body,
        payload: Vec::new(),
        packed: false,
    }
}

fn welcome() -> Welcome {
    Welcome {
        version: syncd_proto::VERSION,
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

fn link() -> Arc<Link> {
    link_with(0)
}

/// A session with these features, to nobody.
pub(in crate::pipeline) fn link_with(features: u64) -> Arc<Link> {
    let channel = Channel {
        session: [0; 32],
        agent_key: Digest::of(b"agent"),
        receiver_key: Digest::of(b"receiver"),
    };
    let hello = Hello {
        version_min: syncd_proto::VERSION,
        version_max: syncd_proto::VERSION,
        features,
        purpose: Purpose::Mirror,
        module: b"m".to_vec(),
        sub_path: WirePath::root(),
        attributes: Attributes::NONE,
        user: None,
        nonce: [0; 32],
        agent: String::new(),
    };
    let (opening, _) = connect(channel, hello, None).unwrap();
    let welcome = Welcome {
        features,
        ..welcome()
    };
    let reply = opening.handle(&frame(0, &ReceiverMessage::Welcome(welcome)));
    let Ok(Reply::Open(session, welcome)) = reply else {
        panic!("{reply:?}")
    };
    Arc::new(Link::new(*session, *welcome, Terms::default(), signer()))
}

pub(in crate::pipeline) fn target(source: &Path) -> Arc<Target> {
    let root = Arc::new(SourceRoot::open(source).unwrap());
    let selection = Selection::new(&Rules::default(), root.clone()).unwrap();
    let settle = Settle {
        settle_ms: 0,
        hold_max_ms: 0,
        marks_max: 99,
        delete: true,
    };
    let limit = DeleteLimit {
        count_max: None,
        percent_max: Some(50),
        window_ms: 1_000,
    };
    Arc::new(Target::new(
        "test".to_owned(),
        root,
        Arc::new(selection),
        settle,
        Brake::new(limit),
        Instant::now(),
    ))
}

/// What is at the top of the target.
type There<'a> = &'a [(&'a str, Kind)];

/// The answer of a target with this in it, and in no directory of it anything.
fn answer(question: &AgentMessage, there: There<'_>) -> ReceiverMessage {
    let has = |path: &WirePath| {
        let is_there = |(name, kind): &(&str, Kind)| {
            *kind == Kind::Dir && path.names() == [Name::new(name.as_bytes()).unwrap()]
        };
        path.is_root() || there.iter().any(is_there)
    };
    let meta = |kind| EntryMeta { kind, ..unknown() };
    match question {
        AgentMessage::DigestQuery(query) => {
            let digests = query.paths.iter();
            let digests = digests.map(|path| has(path).then(|| Digest::of(b"another")));
            ReceiverMessage::Digests(Digests {
                id: query.id,
                digests: digests.collect(),
            })
        }
        AgentMessage::ListQuery(query) => {
            let entries = there.iter().filter(|_| query.path.is_root());
            let entries = entries.map(|(name, kind)| ListEntry {
                name: Name::new(name.as_bytes()).unwrap(),
                meta: meta(*kind),
                subtree: None,
                links: None,
            });
            ReceiverMessage::Listing(Listing {
                id: query.id,
                dir: has(&query.path).then(|| meta(Kind::Dir)),
                entries: entries.collect(),
                last: true,
            })
        }
        other => panic!("{other:?}"),
    }
}

fn words(question: &AgentMessage) -> String {
    match question {
        AgentMessage::DigestQuery(query) => {
            let paths: Vec<_> = query.paths.iter().map(WirePath::to_string).collect();
            format!("digests of {}", paths.join(" "))
        }
        AgentMessage::ListQuery(query) => format!("list {}", query.path),
        other => other.name().to_owned(),
    }
}

/// Compares a source with a target that has this, after its first answer has come. Returns what was asked, what is missing
/// there, and how many entries the source is known to have.
fn compared(source: &Path, there: There<'_>) -> (Vec<String>, BTreeSet<String>, u64) {
    reported(source, there, &mut |_| ())
}

/// The same; tells which names were reported together.
fn reported(
    source: &Path,
    there: There<'_>,
    note: &mut dyn FnMut(&[String]),
) -> (Vec<String>, BTreeSet<String>, u64) {
    let (target, link) = (target(source), link());
    let (near, far) = tokio::io::duplex(1 << 20);
    let mut reader = FrameReader::new(far, FrameLimits::SESSION);
    let mut asked = Vec::new();
    let early = Early::new(&target, &link);
    let comparing = {
        let (target, link) = (target.clone(), link.clone());
        move || {
            let mut groups: Vec<Vec<String>> = Vec::new();
            let mut report = |differences: Differences| {
                let is_missing = |(_, difference): &&(_, Difference)| {
                    matches!(difference, Difference::Missing(_))
                };
                let missing = differences.iter().filter(is_missing);
                groups.push(missing.map(|(path, _)| path.to_string()).collect());
                Ok(())
            };
            let root = WirePath::root();
            let result = compare_asked(&target, &link, &root, false, Some(early), &mut report);
            link.close();
            assert!(result.unwrap().equal.is_none());
            groups
        }
    };
    let runtime = tokio::runtime::Builder::new_current_thread().build();
    let groups = runtime.unwrap().block_on(async {
        let mut comparing = Some(comparing);
        let mut thread = None;
        let answering = async {
            while let Ok(Some(question)) = reader.next().await {
                let question = AgentMessage::from_frame(&question).unwrap();
                asked.push(words(&question));
                let reply = frame(asked.len() as u64, &answer(&question, there));
                link.handle(reply).unwrap();
                thread = thread.take().or(comparing.take().map(std::thread::spawn));
            }
        };
        let (written, ()) = tokio::join!(link.write_all(FrameWriter::new(near)), answering);
        written.unwrap();
        thread.unwrap().join().unwrap()
    });
    let entries = target.lock().brake.entries();
    let missing = groups.iter().filter(|group| !group.is_empty());
    missing.for_each(|group| note(group));
    (asked, groups.into_iter().flatten().collect(), entries)
}

fn source() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir_all(dir.path().join("d/e")).unwrap();
    fs::write(dir.path().join("d/e/f"), "f").unwrap();
    fs::hard_link(dir.path().join("d/e/f"), dir.path().join("d/g")).unwrap();
    fs::write(dir.path().join("h"), "h").unwrap();
    dir
}

fn all() -> BTreeSet<String> {
    ["d", "d/e", "d/e/f", "d/g", "h"].map(str::to_owned).into()
}

#[test]
fn a_directory_is_reported_together_with_what_is_in_it() {
    let dir = source();
    for n in 0..=TOGETHER_MAX {
        fs::write(dir.path().join("d/e").join(n.to_string()), "").unwrap();
    }
    let mut groups = Vec::new();
    let (asked, missing, _) = reported(dir.path(), &[], &mut |group: &[String]| {
        groups.push(group.to_vec());
    });
    assert_eq!(asked, ["digests of . d", "list ."]);
    assert_eq!(missing.len(), 5 + TOGETHER_MAX + 1);
    assert_eq!(groups[0], ["d", "d/g"]);
    assert_eq!((&*groups[1][0], groups[1].len()), ("d/e", TOGETHER_MAX));
    assert_eq!(groups[2].len(), 3);
    assert!(groups[2].iter().all(|path| path.starts_with("d/e/")));
    assert_eq!(groups[3..], [["h".to_owned()]]);
}

#[test]
fn where_the_target_has_nothing_all_is_missing_and_nothing_is_compared() {
    let source = source();
    let (asked, missing, entries) = compared(source.path(), &[]);
    assert_eq!(asked, ["digests of . d", "list ."]);
    assert_eq!((missing, entries), (all(), 5));
}

#[test]
fn a_target_that_lacks_one_directory_and_has_other_things_is_compared() {
    let source = source();
    let (asked, mut missing, entries) = compared(source.path(), &[("h", Kind::Dir)]);
    // Once to see that it is not empty.
    assert_eq!(
        asked[..3],
        ["digests of . d", "list .", "list ."],
        "{asked:?}"
    );
    assert_eq!(entries, 5);
    missing.insert("h".to_owned());
    assert_eq!(missing, all());
}

#[test]
fn a_target_that_has_the_directory_is_not_asked_whether_it_is_empty() {
    let source = source();
    let (asked, missing, entries) = compared(source.path(), &[("d", Kind::Dir)]);
    assert_eq!(asked, ["digests of . d", "list .", "list d"]);
    assert_eq!(entries, 5);
    let below = all().into_iter().filter(|path| path != "d");
    assert_eq!(missing, below.collect());
}

#[test]
fn a_source_without_directories_is_compared() {
    let source = tempfile::tempdir().unwrap();
    fs::write(source.path().join("f"), "f").unwrap();
    let (asked, missing, entries) = compared(source.path(), &[]);
    assert_eq!(asked, ["digests of .", "list ."]);
    assert_eq!((missing, entries), (["f".to_owned()].into(), 1));
}

#[test]
fn one_search_is_for_all_linked_files_that_wait() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| WirePath::from_relative(name.as_ref()).unwrap();
    let target = target(dir.path());
    let linked = |name: &str| {
        target
            .root
            .stat_links(&path(name))
            .unwrap()
            .unwrap()
            .1
            .unwrap()
    };
    for pair in [("a", "b"), ("c", "d")] {
        fs::write(dir.path().join(pair.0), pair.0).unwrap();
        fs::hard_link(dir.path().join(pair.0), dir.path().join(pair.1)).unwrap();
    }
    let mut state = target.lock();
    state.link = Some(link());
    state.links.ready();
    for name in ["a", "b", "c", "d"] {
        state.dirty.closed(path(name), 0);
    }
    // The planner comes to the first name, and stops there.
    assert!(state.links.seek(linked("a").inode(), &path("a"), 2, 1));
    drop(state);
    assert!(seek(&target, 0));
    let mut state = target.lock();
    for (name, seq) in ["a", "b", "c", "d"].into_iter().zip(1..) {
        let inode = linked(name).inode();
        assert!(!state.links.seek(inode, &path(name), 2, seq), "{name}");
    }
}

/// A search reads a name, then asks the receiver; meanwhile the file is renamed, there as well. It is sent under no name
/// that leads to another look but the new one.
#[test]
fn a_name_that_goes_during_a_search_is_looked_at_where_it_went() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| WirePath::from_relative(name.as_ref()).unwrap();
    let (target, link) = (target(dir.path()), link());
    fs::write(dir.path().join("old"), "content").unwrap();
    fs::hard_link(dir.path().join("old"), dir.path().join("second")).unwrap();
    let linked = target.root.stat_links(&path("second")).unwrap().unwrap().1;
    let inode = linked.unwrap().inode();
    {
        let mut state = target.lock();
        state.link = Some(link.clone());
        state.links.ready();
        state.dirty.closed(path("second"), 0);
        assert!(state.links.seek(inode, &path("second"), 2, 1));
    }
    let rename = || {
        fs::rename(dir.path().join("old"), dir.path().join("new")).unwrap();
        let mut state = target.lock();
        assert!(!state.dirty.renamed(path("old"), path("new"), false, 1));
        let taken = state.dirty.take_renames(u64::MAX, 9);
        assert_eq!(taken.len(), 1);
        assert!(state.dirty.renames_logged());
        state.dirty.settle_seq(taken[0].seq);
        assert!(!state.dirty.is_pending(&path("new")));
    };
    let (near, far) = tokio::io::duplex(1 << 20);
    let mut reader = FrameReader::new(far, FrameLimits::SESSION);
    let runtime = tokio::runtime::Builder::new_current_thread().build();
    let searching = {
        let (target, link) = (target.clone(), link.clone());
        std::thread::spawn(move || {
            let done = seek(&target, 0);
            link.close();
            done
        })
    };
    runtime.unwrap().block_on(async {
        let answering = async {
            while let Ok(Some(question)) = reader.next().await {
                let question = AgentMessage::from_frame(&question).unwrap();
                let AgentMessage::SignatureQuery(query) = question else {
                    panic!("{question:?}")
                };
                assert_eq!(query.path, path("old"));
                rename();
                let answer = ReceiverMessage::Signature(Signature {
                    id: query.id,
                    info: None,
                    last: true,
                });
                link.handle(frame(1, &answer)).unwrap();
            }
        };
        let (written, ()) = tokio::join!(link.write_all(FrameWriter::new(near)), answering);
        written.unwrap();
    });
    assert!(searching.join().unwrap());
    let state = target.lock();
    assert!(state.dirty.is_looked_at_again(&path("new")));
    assert!(!state.links.has_name(&path("old")));
}

#[test]
fn memory_is_given_back_once_after_work_and_not_during_it() {
    let dir = tempfile::tempdir().unwrap();
    let target = target(dir.path());
    assert!(!target.give_back());
    for done in [true, false] {
        target.update(|state, _| {
            state.counts.ops += 1;
            state.comparing = !done;
        });
        assert_eq!(target.give_back(), done);
        assert!(!target.give_back());
    }
    target.update(|state, _| state.comparing = false);
    assert!(target.give_back());
}
