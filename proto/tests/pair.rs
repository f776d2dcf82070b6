//! Both sides in one thread: cut, replayed, repeated, reordered, damaged at every step. Never a panic,
//! never an effect of a frame that was not verified, and after a reconnect both trees are equal.

#[allow(dead_code, reason = "shared with vectors.rs")]
mod golden;
mod peers;

use golden::{channel, hello, meta, password, path, signer, verifier, wrong_signer};
use peers::{Agent, Line, Manners, Receiver, Store, Tree, before, source, talk, wire};
use proptest::collection::vec;
use proptest::prelude::*;
use syncd_proto::digest::Digest;
use syncd_proto::error::ProtocolError;
use syncd_proto::exchange::Counters;
use syncd_proto::exchange::agent::{Reply, connect};
use syncd_proto::exchange::receiver::{AwaitHello, ReceiverSession};
use syncd_proto::frame::{Frame, HEADER_BYTES};
use syncd_proto::message::*;
use syncd_proto::meta::Compare;
use syncd_proto::op::Op;
use syncd_proto::reject::RejectCode;

const LARGE: usize = 300_000;

fn polite() -> Manners {
    Manners {
        password: Some(password(b"secret")),
        impostor: false,
    }
}

fn store(large: usize) -> Store {
    Store {
        tree: before(large),
        commits: 0,
    }
}

fn agent(session: u8, large: usize) -> Agent {
    Agent::new(session, Some(password(b"secret")), &source(large))
}

/// One connection over this line.
fn meet(session: u8, large: usize, store: &mut Store, line: Line) -> (Agent, peers::Run) {
    let mut agent = agent(session, large);
    let mut receiver = Receiver::new(channel(session), polite());
    let run = talk(&mut agent, &mut receiver, store, line);
    (agent, run)
}

/// A new connection makes the trees equal, whatever happened before.
fn assert_converges(mut store: Store, large: usize) {
    let (agent, run) = meet(9, large, &mut store, Line::perfect());
    assert!(agent.done, "{run:?}");
    assert_eq!(store.tree, source(large));
}

/// The trees after 0, 1, .. commits of an undisturbed session.
fn prefixes(large: usize) -> Vec<Tree> {
    let mut states = vec![before(large)];
    let (_, run) = meet(1, large, &mut store(large), Line::perfect());
    let mut mine = store(large);
    let mut receiver = Receiver::new(channel(1), polite());
    for frame in &run.sent {
        let commits = mine.commits;
        receiver
            .feed(&wire(std::slice::from_ref(frame)), &mut mine)
            .1
            .unwrap();
        if mine.commits > commits {
            states.push(mine.tree.clone());
        }
    }
    assert_eq!(states.last(), Some(&source(large)));
    assert_eq!(states.len(), 3);
    states
}

/// What the agent sends in an undisturbed session.
fn golden_frames(large: usize) -> Vec<Frame> {
    meet(1, large, &mut store(large), Line::perfect()).1.sent
}

/// Feeds recorded bytes to a fresh receiver of the same connection.
fn replay(
    bytes: &[u8],
    session: u8,
    manners: Manners,
) -> (Store, Vec<Frame>, Option<ProtocolError>) {
    let mut store = store(0);
    let mut receiver = Receiver::new(channel(session), manners);
    let (answers, result) = receiver.feed(bytes, &mut store);
    (store, answers, result.err())
}

#[test]
fn an_undisturbed_session_makes_the_trees_equal() {
    for large in [0, LARGE] {
        let mut store = store(large);
        let (agent, run) = meet(1, large, &mut store, Line::perfect());
        assert!(agent.done && agent.rejects.is_empty(), "{run:?}");
        assert_eq!((run.agent_error, run.receiver_error), (None, None));
        assert_eq!(store.tree, source(large));
        assert_eq!(store.commits, 2);
    }
}

#[test]
fn a_large_file_travels_as_a_delta() {
    let sent: usize = golden_frames(LARGE).iter().map(Frame::wire_len).sum();
    assert!(sent < LARGE / 5, "{sent} bytes");
}

#[test]
fn a_second_session_has_nothing_to_change() {
    let mut store = store(LARGE);
    meet(1, LARGE, &mut store, Line::perfect());
    let (agent, run) = meet(2, LARGE, &mut store, Line::perfect());
    assert!(agent.done);
    let sent: usize = run.sent.iter().map(Frame::wire_len).sum();
    assert!(sent < 2_000, "{sent} bytes");
}

#[test]
fn a_cut_at_any_byte_leaves_a_prefix_and_a_reconnect_heals_it() {
    let states = prefixes(0);
    let length = wire(&golden_frames(0)).len();
    for cut in 0..=length {
        for upward in [true, false] {
            let mut line = Line::perfect();
            if upward {
                line.to_receiver = cut;
            } else {
                line.to_agent = cut;
            }
            let mut store = store(0);
            let (_, run) = meet(1, 0, &mut store, line);
            assert_eq!((run.agent_error, run.receiver_error), (None, None));
            assert_eq!(store.tree, states[store.commits as usize], "cut at {cut}");
            assert_converges(store, 0);
        }
    }
}

#[test]
fn a_cut_at_and_around_any_frame_of_a_staged_session_heals_too() {
    let states = prefixes(LARGE);
    let mut end = 0;
    for frame in golden_frames(LARGE) {
        let start = end;
        end += frame.wire_len();
        for cut in [
            start,
            start + 1,
            start + HEADER_BYTES,
            (start + end) / 2,
            end - 1,
            end,
        ] {
            let mut line = Line::perfect();
            line.to_receiver = cut;
            let mut store = store(LARGE);
            meet(1, LARGE, &mut store, line);
            assert_eq!(store.tree, states[store.commits as usize], "cut at {cut}");
            assert_converges(store, LARGE);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn deliveries_in_any_pieces_and_order_give_the_same(
        pieces in vec(prop_oneof![0..40usize, 1..5_000usize], 1..30),
        large in prop_oneof![Just(0), Just(LARGE)],
    ) {
        let mut pieces = pieces;
        pieces.push(700);
        let mut store = store(large);
        let (agent, run) = meet(1, large, &mut store, Line { pieces, ..Line::perfect() });
        prop_assert!(agent.done, "{:?}", run);
        prop_assert_eq!(store.tree, source(large));
    }
}

/// Every bit of every byte: what is installed is what was signed, or nothing.
#[test]
fn a_damaged_byte_never_has_an_effect_of_its_own() {
    let (old, new) = (before(0), source(0));
    let bytes = wire(&golden_frames(0));
    let mut refused = 0;
    for at in 0..bytes.len() {
        for bit in 0..8 {
            let mut damaged = bytes.clone();
            damaged[at] ^= 1 << bit;
            let (store, _, error) = replay(&damaged, 1, polite());
            refused += usize::from(error.is_some());
            for (path, content) in &store.tree {
                let known = [old.get(path), new.get(path)].contains(&Some(content));
                assert!(known, "byte {at}, bit {bit}: {path} {content:?}");
            }
            for path in old.keys().filter(|path| new.contains_key(*path)) {
                assert!(
                    store.tree.contains_key(path),
                    "byte {at}, bit {bit}: {path} is gone"
                );
            }
            if bit == 0 {
                assert_converges(store, 0);
            }
        }
    }
    assert!(
        refused > bytes.len() * 4,
        "{refused} of {} damages refused",
        bytes.len() * 8
    );
}

/// The same on the way back: the agent ends the connection, or asks or sends what it would anyway; what it
/// signs is its own tree in any case.
#[test]
fn a_damaged_answer_never_panics_the_agent() {
    let mut first = agent(1, 0);
    let (mut receiver, mut store) = (Receiver::new(channel(1), polite()), store(0));
    let mut answers: Vec<Vec<u8>> = Vec::new();
    let mut frames = first.feed(&[]).0;
    while !frames.is_empty() {
        let (answer, result) = receiver.feed(&wire(&frames), &mut store);
        result.unwrap();
        answers.push(wire(&answer));
        frames = first.feed(&wire(&answer)).0;
    }
    for (round, answer) in answers.iter().enumerate() {
        for at in 0..answer.len() {
            let mut again = agent(1, 0);
            for whole in &answers[..round] {
                again.feed(whole).1.unwrap();
            }
            let mut damaged = answer.clone();
            damaged[at] ^= 0x11;
            let _ = again.feed(&damaged);
        }
    }
}

#[test]
fn repeated_reordered_and_missing_frames_end_the_connection() {
    let frames = golden_frames(0);
    for at in 0..frames.len() {
        let mut repeated = frames.clone();
        repeated.insert(at, frames[at].clone());
        let mut missing = frames.clone();
        missing.remove(at);
        let mut swapped = frames.clone();
        swapped.swap(at, (at + 1) % frames.len());
        for (bad, session) in [
            (repeated, "repeated"),
            (missing, "missing"),
            (swapped, "swapped"),
        ] {
            let (store, _, error) = replay(&wire(&bad), 1, polite());
            let last = session == "missing" && at + 1 == frames.len();
            let sequence = matches!(error, Some(ProtocolError::Sequence { .. }));
            assert!(sequence || last, "{session} {at}: {error:?}");
            assert!(store.commits <= 2);
        }
    }
}

/// Somebody inside the connection, who can number frames but not sign.
#[test]
fn repeated_reordered_and_missing_commits_do_not_verify() {
    let commits: Vec<Frame> = golden_frames(0)
        .into_iter()
        .filter(|f| f.kind == 7)
        .collect();
    for (order, fine) in [
        (&[0, 1][..], 2),
        (&[0, 0], 1),
        (&[1], 0),
        (&[1, 0], 0),
        (&[0, 1, 1], 2),
        (&[0, 1, 0], 2),
    ] {
        let mut session = session(1, b"www");
        for (seq, &index) in order.iter().enumerate() {
            let frame = Frame {
                seq: seq as u64,
                ..commits[index].clone()
            };
            let result = session.handle(frame);
            assert_eq!(result.is_ok(), seq < fine, "{order:?} at {seq}");
            if seq == fine {
                let error = result.unwrap_err();
                assert_eq!(error, ProtocolError::WrongChain("number out of order"));
                break;
            }
        }
    }
}

fn session(id: u8, module: &[u8]) -> ReceiverSession {
    ReceiverSession::resume(Counters::default(), [id; 32], module.to_vec(), verifier())
}

#[test]
fn a_commit_of_another_session_module_key_or_content_does_not_verify() {
    let commits: Vec<Frame> = golden_frames(0)
        .into_iter()
        .filter(|f| f.kind == 7)
        .collect();
    let first = Frame {
        seq: 0,
        ..commits[0].clone()
    };
    assert!(session(1, b"www").handle(first.clone()).is_ok());
    let wrong = |mut session: ReceiverSession, frame: Frame| session.handle(frame).unwrap_err();
    let another = |what| ProtocolError::WrongChain(what);
    assert_eq!(
        wrong(session(2, b"www"), first.clone()),
        another("another session")
    );
    assert_eq!(
        wrong(session(1, b"ftp"), first.clone()),
        another("another module")
    );
    // The signature of the second commit under the body of the first.
    let mut swapped = first.clone();
    swapped.payload = commits[1].payload[..2 + 64].to_vec();
    assert_eq!(
        wrong(session(1, b"www"), swapped),
        ProtocolError::BadSignature
    );
    let mut unsigned = first.clone();
    unsigned.payload = vec![0, 0];
    assert_eq!(
        wrong(session(1, b"www"), unsigned),
        ProtocolError::BadSignature
    );
    for payload in [vec![], vec![1], vec![64, 0], vec![255, 255], vec![1, 4]] {
        let frame = Frame {
            payload,
            ..first.clone()
        };
        assert!(matches!(
            wrong(session(1, b"www"), frame),
            ProtocolError::Decode(_)
        ));
    }
    let mut more = first;
    more.payload.push(0);
    assert!(matches!(
        wrong(session(1, b"www"), more),
        ProtocolError::Decode(_)
    ));
}

#[test]
fn a_commit_signed_with_another_key_does_not_verify() {
    let mut opened = open(1);
    let op = Op::Mkdir {
        path: path("d"),
        meta: meta(),
    };
    let made = opened.commit(&wrong_signer(), vec![op], Vec::new());
    let frame = Frame {
        seq: 0,
        ..made.unwrap().1
    };
    let found = session(1, b"www").handle(frame).unwrap_err();
    assert_eq!(found, ProtocolError::BadSignature);
}

/// An agent's session with a receiver that asks for no password; `version` is what it answers.
fn opened(id: u8, version: u16) -> Result<Reply, ProtocolError> {
    let (state, frame) = connect(channel(id), hello(), None).unwrap();
    let greeted = AwaitHello::new(channel(id)).handle(&frame).unwrap();
    let handover = greeted.accept();
    let mut session = ReceiverSession::resume(
        handover.counters,
        handover.session,
        b"www".to_vec(),
        verifier(),
    );
    let welcome = Welcome {
        version,
        features: 0,
        receiver: String::new(),
        proof: None,
        writable: true,
        compare: Compare::ALL,
        maps_names: false,
        durability: Durability::Batch,
        window_bytes: 1,
        window_commits: 1,
        instance: [0; 16],
        leftovers: Vec::new(),
    };
    state.handle(&session.frame(&welcome.into(), Vec::new()).unwrap())
}

fn open(id: u8) -> Box<syncd_proto::exchange::agent::AgentSession> {
    match opened(id, 1).unwrap() {
        Reply::Open(session, _) => session,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_recorded_session_is_worth_nothing_on_another_connection() {
    let bytes = wire(&golden_frames(0));
    let (store, answers, error) = replay(&bytes, 2, polite());
    assert_eq!(store.commits, 0);
    assert_eq!(error, None);
    let refused = ReceiverMessage::from_frame(answers.last().unwrap()).unwrap();
    let ReceiverMessage::Refused(refused) = refused else {
        panic!("{refused:?}")
    };
    assert_eq!(refused.code, RejectCode::AuthFailed);
}

#[test]
fn a_wrong_password_is_refused() {
    for wrong in [&b"Secret"[..], b"", b"secret "] {
        let mut agent = Agent::new(1, Some(password(wrong)), &source(0));
        let mut receiver = Receiver::new(channel(1), polite());
        let mut store = store(0);
        talk(&mut agent, &mut receiver, &mut store, Line::perfect());
        assert_eq!(agent.refused.unwrap().code, RejectCode::AuthFailed);
        assert_eq!(store.commits, 0);
    }
}

#[test]
fn a_receiver_without_the_password_is_not_trusted() {
    for known in [None, Some(password(b"guess"))] {
        let manners = Manners {
            password: known,
            impostor: true,
        };
        let mut agent = agent(1, 0);
        let mut receiver = Receiver::new(channel(1), manners);
        let run = talk(&mut agent, &mut receiver, &mut store(0), Line::perfect());
        assert_eq!(run.agent_error, Some(ProtocolError::BadServerProof));
        assert!(
            run.sent.iter().all(|frame| frame.kind <= 2),
            "nothing but Hello and Answer"
        );
    }
}

#[test]
fn a_challenge_without_a_password_asks_the_user() {
    let (state, frame) = connect(channel(1), hello(), None).unwrap();
    let greeted = AwaitHello::new(channel(1)).handle(&frame).unwrap();
    let (_, challenge) = greeted.challenge([0; 32]).unwrap();
    assert!(matches!(
        state.handle(&challenge),
        Ok(Reply::PasswordNeeded)
    ));
}

#[test]
fn versions_without_overlap_are_refused_and_both_are_named() {
    for (version_min, version_max) in [(2, 3), (0, 0), (3, 2)] {
        let hello = Hello {
            version_min,
            version_max,
            ..hello()
        };
        let mut agent = Agent::greeting(channel(1), hello, None, &source(0));
        let mut receiver = Receiver::new(channel(1), polite());
        talk(&mut agent, &mut receiver, &mut store(0), Line::perfect());
        let refused = agent.refused.unwrap();
        assert_eq!(refused.code, RejectCode::Version);
        for version in [1, version_min, version_max] {
            assert!(
                refused.text.contains(&version.to_string()),
                "{}",
                refused.text
            );
        }
    }
    let newer = Hello {
        version_max: 2,
        ..hello()
    };
    let mut agent = Agent::greeting(channel(1), newer, Some(password(b"secret")), &source(0));
    let mut receiver = Receiver::new(channel(1), polite());
    talk(&mut agent, &mut receiver, &mut store(0), Line::perfect());
    assert!(agent.done);
    assert!(matches!(opened(1, 2), Err(ProtocolError::Contradiction(_))));
}

#[test]
fn acknowledgements_of_another_log_are_contradictions() {
    let root = Digest::of(b"another log");
    for (applied, durable) in [(1, 0), (1, 1), (2, 0)] {
        let mut session = open(1);
        let made = session.commit(&signer(), Vec::new(), Vec::new());
        assert_eq!(made.unwrap().0, 1);
        let message = ReceiverMessage::from(Ack {
            applied,
            durable,
            root,
        });
        let mut body = Vec::new();
        message.encode_body(&mut body).unwrap();
        let (kind, payload) = (message.kind(), Vec::new());
        let found = session.handle(&Frame {
            seq: 1,
            kind,
            body,
            payload,
            packed: false,
        });
        assert!(
            matches!(found, Err(ProtocolError::Contradiction(_))),
            "{found:?}"
        );
        assert_eq!((session.applied(), session.durable()), (0, 0));
    }
}
