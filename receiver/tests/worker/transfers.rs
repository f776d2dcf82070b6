//! Content that travels by itself: deltas, interruptions, lies.

use super::*;

#[test]
fn a_delta_copies_from_its_basis_and_only_from_the_version_meant() {
    let bench = Bench::start(|_| {});
    let mut agent = bench.open();
    let old: Vec<u8> = (0..300_000_u32).map(|n| (n % 251) as u8).collect();
    fs::write(bench.at("big"), &old).unwrap();
    let info = agent.signature("big", SignatureWant::Groups).unwrap();
    assert_eq!(info.len, 300_000);
    let basis = Basis {
        path: path("big"),
        version: info.version,
        len: info.len,
    };
    let mut new = old[1_000..201_000].to_vec();
    new.extend_from_slice(b"between");
    new.extend_from_slice(&[0; 70_000]);
    new.extend_from_slice(&old[..10]);
    let ops = vec![
        PatchOp::Copy {
            from: 1_000,
            len: 200_000,
        },
        PatchOp::Literal { len: 7 },
        PatchOp::Hole { len: 70_000 },
        PatchOp::Copy { from: 0, len: 10 },
    ];
    agent.begin(1, Some(basis.clone()), None, 0);
    agent.chunk(1, ops.clone(), b"between");
    agent.end(1, &new);
    assert!(agent.commit(vec![bare(staged("big", 1, &new))]).is_empty());
    assert_eq!(fs::read(bench.at("big")).unwrap(), new);

    agent.begin(2, Some(basis), None, 0);
    agent.chunk(2, ops, b"between");
    agent.end(2, &new);
    let refused = agent.rejected();
    assert_eq!(refused, (Rejected::Transfer(2), RejectCode::NoBasis));
    let rejects = agent.commit(vec![bare(staged("big", 2, &new))]);
    assert_eq!(codes(&rejects), [RejectCode::NoBasis]);
    bench.stays_clean();
}

#[test]
fn what_was_verified_before_is_believed_only_while_nobody_touches_it() {
    let bench = Bench::start(|_| {});
    let mut agent = bench.open();
    let old: Vec<u8> = (0..400_000_u32).flat_map(u32::to_le_bytes).collect();
    let new = [&old[..], b"and more"].concat();
    agent.begin(1, None, None, 0);
    agent.chunk(
        1,
        vec![PatchOp::Literal { len: 1_000_000 }],
        &old[..1_000_000],
    );
    agent.chunk(
        1,
        vec![PatchOp::Literal { len: 600_000 }],
        &old[1_000_000..],
    );
    agent.end(1, &old);
    assert!(agent.commit(vec![bare(staged("log", 1, &old))]).is_empty());
    let info = agent.signature("log", SignatureWant::Version).unwrap();
    assert_eq!(info.content, Some(Digest::of(&old)));

    let grown = |agent: &mut Agent, id: u64, info: &SignatureInfo, meanwhile: &dyn Fn()| {
        let basis = Basis {
            path: path("log"),
            version: info.version,
            len: info.len,
        };
        agent.begin(id, Some(basis), None, 0);
        // Transfers are taken in order: once this one is refused, the other has begun.
        agent.begin(id + 100, None, None, 0);
        agent.end(id + 100, b"nothing of this came");
        assert_eq!(agent.rejected().1, RejectCode::BadContent);
        meanwhile();
        let copy = PatchOp::Copy {
            from: 0,
            len: old.len() as u64,
        };
        agent.chunk(id, vec![copy, PatchOp::Literal { len: 8 }], b"and more");
        agent.end(id, &new);
    };
    grown(&mut agent, 2, &info, &|| {});
    let rejects = agent.commit(vec![bare(staged("grown", 2, &new))]);
    assert!(rejects.is_empty() && fs::read(bench.at("grown")).unwrap() == new);

    // Written to between its verification and the copy: the result is read and found to be wrong.
    let spoil = || {
        let log = bench.at("log");
        let times = fs::metadata(&log).unwrap().modified().unwrap();
        let file = fs::File::options().write(true).open(&log).unwrap();
        std::os::unix::fs::FileExt::write_all_at(&file, b"spoilt", 777_777).unwrap();
        file.set_modified(times).unwrap();
    };
    grown(&mut agent, 3, &info, &spoil);
    let refused = agent.rejected();
    assert_eq!(refused, (Rejected::Transfer(3), RejectCode::BadContent));
    let info = agent.signature("log", SignatureWant::Version).unwrap();
    assert_eq!(info.content, None);
    bench.stays_clean();
}

#[test]
fn an_interrupted_transfer_goes_on_where_it_was() {
    let bench = Bench::start(|_| {});
    let content: Vec<u8> = (0..600_000_u32).map(|n| (n / 7) as u8).collect();
    let key = Digest::of(b"version");
    let mut agent = bench.open();
    agent.begin(1, None, Some(key), 0);
    let first = PatchOp::Literal { len: 400_000 };
    agent.chunk(1, vec![first], &content[..400_000]);
    agent.begin(2, None, None, 0);
    agent.chunk(2, vec![PatchOp::Literal { len: 3 }], b"abc");
    drop(agent);
    bench.ended();

    let mut agent = bench.open();
    let [left] = &agent.welcome.leftovers[..] else {
        panic!("{:?}", agent.welcome.leftovers)
    };
    assert_eq!((left.key, left.bytes), (key, 400_000));
    // The agent may trust less of it than there is.
    agent.begin(7, None, Some(key), 300_000);
    let rest = PatchOp::Literal { len: 300_000 };
    agent.chunk(7, vec![rest], &content[300_000..]);
    agent.end(7, &content);
    assert!(
        agent
            .commit(vec![bare(staged("f", 7, &content))])
            .is_empty()
    );
    assert_eq!(fs::read(bench.at("f")).unwrap(), content);
    drop(agent);
    bench.ended();
    assert!(bench.open().welcome.leftovers.is_empty());
    bench.stays_clean();
}

#[test]
fn content_that_is_not_what_was_announced_is_never_installed() {
    let bench = Bench::start(|_| {});
    let mut agent = bench.open();
    agent.begin(1, None, None, 0);
    agent.chunk(1, vec![PatchOp::Literal { len: 3 }], b"abc");
    agent.end(1, b"abd");
    assert_eq!(
        agent.rejected(),
        (Rejected::Transfer(1), RejectCode::BadContent)
    );
    agent.begin(2, None, None, 0);
    agent.chunk(2, vec![PatchOp::Copy { from: 0, len: 3 }], b"");
    assert_eq!(
        agent.rejected(),
        (Rejected::Transfer(2), RejectCode::BadContent)
    );
    bench.stays_clean();
}

#[test]
fn all_of_the_window_comes_back_whatever_becomes_of_the_transfers() {
    const CHUNK_BYTES: usize = 300_000;
    let bench = Bench::start(|_| {});
    let mut agent = bench.open();
    let no_file = Basis {
        path: path("none"),
        version: [7; 16],
        len: 1,
    };
    let chunk = vec![7; CHUNK_BYTES];
    let window = i64::try_from(agent.welcome.window_bytes).unwrap();
    let mut credit = window;
    let receive = |agent: &mut Agent, credit: &mut i64| {
        *credit += agent.find(|message| match message {
            ReceiverMessage::Credit(credit) => Some(credit.bytes as i64),
            _ => None,
        });
    };
    // One is aborted, and nobody knows of the other.
    for (transfer, basis) in [(1, None), (2, Some(no_file))] {
        agent.begin(transfer, basis, None, 0);
        // More than the window, and no whole number of what is given back at once.
        for _ in 0..70 {
            while credit <= 0 {
                receive(&mut agent, &mut credit);
            }
            let len = CHUNK_BYTES as u32;
            agent.chunk(transfer, vec![PatchOp::Literal { len }], &chunk);
            credit -= CHUNK_BYTES as i64;
        }
        agent.say(StageAbort { transfer });
    }
    while credit < window {
        receive(&mut agent, &mut credit);
    }
    assert_eq!(credit, window);
    // A small piece does too.
    agent.begin(3, None, None, 0);
    agent.chunk(3, vec![PatchOp::Literal { len: 5 }], b"small");
    credit -= 5;
    receive(&mut agent, &mut credit);
    assert_eq!(credit, window);
    agent.end(3, b"small");
    let rejects = agent.commit(vec![bare(staged("small", 3, b"small"))]);
    assert_eq!(
        (codes(&rejects), bench.at("small").exists()),
        (vec![], true)
    );
}

#[test]
fn a_file_is_as_long_as_it_was_sent_whatever_is_at_its_end() {
    const HOLE: PatchOp = PatchOp::Hole { len: 70_000 };
    const DATA: PatchOp = PatchOp::Literal { len: 6 };
    let bench = Bench::start(|_| {});
    let mut agent = bench.open();
    let cases: [&[&[PatchOp]]; 6] = [
        &[&[HOLE]],
        &[&[DATA, HOLE]],
        &[&[DATA], &[HOLE]],
        &[&[HOLE], &[DATA]],
        &[&[HOLE, HOLE], &[]],
        &[],
    ];
    for (transfer, chunks) in (1..).zip(cases) {
        let mut content = Vec::new();
        agent.begin(transfer, None, None, 0);
        for ops in chunks {
            let mut payload = Vec::new();
            for op in *ops {
                let made = op.output_len() as usize;
                let byte = match op {
                    PatchOp::Literal { .. } => {
                        payload.resize(payload.len() + made, 1);
                        1
                    }
                    _ => 0,
                };
                content.resize(content.len() + made, byte);
            }
            agent.chunk(transfer, ops.to_vec(), &payload);
        }
        agent.end(transfer, &content);
        let put = bare(staged("f", transfer, &content));
        assert!(agent.commit(vec![put]).is_empty(), "{chunks:?}");
        assert_eq!(fs::read(bench.at("f")).unwrap(), content, "{chunks:?}");
    }
    bench.stays_clean();
}
