//! One truth: whatever the state, `status`, `status --json`, `metrics`, `wait` and their exit codes say the same.

use std::collections::BTreeMap;
use std::fs::{self, File, Permissions};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Command, Output};

use rustix::process::Signal;
use serde_json::Value;
use syncd_proto::exposition::{Sample, read};
use syncd_tests::port::ReservedPort;
use syncd_tests::require::Need;
use syncd_tests::sandbox::MODULE;
use syncd_tests::workload::many_small;
use syncd_tests::{Agent, Binaries, Sandbox, require, wait_for, wait_until};

use crate::common::{Immutable, LONG, Mirror, code, once, patient, target_of};

/// Runs a command that asks this agent.
fn ask(agent: &Agent, name: &str, args: &[&str]) -> (Option<i32>, String) {
    let mut command = Command::new(&Binaries::locate().agent);
    command.arg(name).args(args);
    let asked = command.arg("--control").arg(agent.control().path());
    let Output { status, stdout, .. } = asked.output().expect("an answer");
    (status.code(), String::from_utf8(stdout).expect("UTF-8"))
}

/// What an agent says in numbers, states included (the sample whose value is 1).
fn numbers(agent: &Agent) -> BTreeMap<String, f64> {
    let (code, text) = ask(agent, "metrics", &[]);
    assert_eq!(code, Some(0), "{text}");
    let samples = read(&text).unwrap_or_else(|error| panic!("{error}: {text}"));
    let named = |sample: &Sample| {
        let state = sample.labels.get("state");
        state.map_or(sample.name.clone(), |state| {
            format!("{}:{state}", sample.name)
        })
    };
    samples
        .iter()
        .map(|sample| (named(sample), sample.value))
        .collect()
}

/// The same numbers, taken from the JSON of `status`; without those that change from one moment to the next.
fn expected(status: &Value) -> BTreeMap<String, f64> {
    let source = &status["sources"][0];
    let target = &source["targets"][0];
    let number = |value: &Value| {
        value
            .as_f64()
            .unwrap_or_else(|| panic!("a number: {value}"))
    };
    let held = &target["held"];
    let deletes = held.get("deletes").map_or(0.0, number);
    let mut found = BTreeMap::new();
    for (name, value) in [
        ("watched_directories", number(&source["watched_dirs"])),
        ("unwatched_directories", number(&source["unwatched_dirs"])),
        ("overflows_total", number(&source["overflows"])),
        ("rescans_total", number(&source["rescans"])),
    ] {
        found.insert(format!("syncd_agent_source_{name}"), value);
    }
    for (name, field) in [
        ("dirty_paths", "dirty"),
        ("in_flight_paths", "in_flight"),
        ("failed_paths", "failed_total"),
        ("durable_files_total", "files"),
        ("durable_content_bytes_total", "bytes_content"),
        ("sent_operations_total", "ops_sent"),
        ("durable_operations_total", "ops_durable"),
        ("comparisons_total", "comparisons"),
        ("collapsed_total", "collapsed"),
    ] {
        let name = format!("syncd_agent_target_{name}");
        found.insert(name, number(&target[field]));
    }
    let engaged = f64::from(u8::from(held.is_object()));
    found.insert("syncd_agent_target_brake_engaged".into(), engaged);
    found.insert("syncd_agent_target_held_deletes".into(), deletes);
    let state = target["state"].as_str().expect("a state");
    found.insert(format!("syncd_agent_target_state:{state}"), 1.0);
    let state = source["state"].as_str().expect("a state");
    found.insert(format!("syncd_agent_source_state:{state}"), 1.0);
    found
}

/// Waits until this is the verdict, and everybody agrees on everything; then gives the numbers. Between two
/// questions something may have changed: it is asked again then.
#[track_caller]
fn agree(agent: &Agent, code: i32, verdict: &str) -> BTreeMap<String, f64> {
    wait_for(LONG, "everybody says the same", || {
        let (text_code, text) = ask(agent, "status", &[]);
        let (json_code, json) = ask(agent, "status", &["--json"]);
        let json: Value = serde_json::from_str(&json).map_err(|error| error.to_string())?;
        let told = numbers(agent);
        let codes = [text_code, json_code];
        if codes != [Some(code); 2] {
            return Err(format!("exit codes {codes:?}: {text}"));
        }
        if !text.starts_with(verdict) || json["verdict"] != verdict.replace(' ', "_") {
            return Err(format!("not {verdict}: {text}"));
        }
        let whole = told.get("syncd_agent_verdict");
        if whole != Some(&f64::from(code)) {
            return Err(format!("verdict in numbers {whole:?}, not {code}"));
        }
        for (name, value) in expected(&json["status"]) {
            if told.get(&name) != Some(&value) {
                return Err(format!("{name} is {:?}, not {value}", told.get(&name)));
            }
        }
        Ok(told)
    })
}

/// What `wait` ends with.
#[track_caller]
fn waited(agent: &Agent, code: i32) {
    let (found, text) = ask(agent, "wait", &["--all", "--timeout", "1"]);
    assert_eq!(found, Some(code), "{text}");
}

#[test]
fn at_rest_and_behind() {
    let mirror = Mirror::start();
    many_small(&mirror.src("d"), 3, 5, 50).expect("files");
    mirror.settle();
    let told = agree(&mirror.agent, 0, "in sync");
    waited(&mirror.agent, 0);
    assert_eq!(told["syncd_agent_target_connected"], 1.0);
    assert_eq!(told["syncd_agent_target_lag_seconds"], 0.0);
    assert_eq!(told["syncd_agent_target_first_sync_done"], 1.0);
    assert!(told["syncd_agent_target_durable_files_total"] >= 15.0);
    let sent = told["syncd_agent_target_sent_bytes_total"];
    assert!(sent > 0.0, "{told:?}");
    // Nobody is there any more: what has happened counts on, and what has not is late.
    let Mirror {
        agent,
        receiver,
        sandbox,
    } = mirror;
    drop(receiver);
    fs::write(sandbox.src().join("late"), "late").expect("write");
    wait_until(LONG, "it is late", || {
        numbers(&agent)["syncd_agent_target_dirty_paths"] > 0.0
    });
    // What is to be compared waits as well, and is not on its way.
    for name in ["d/d00000", "d/d00001"] {
        agent.control().rescan(name).expect("rescan");
    }
    wait_until(LONG, "comparisons wait", || {
        numbers(&agent)["syncd_agent_target_dirty_paths"] > 2.0
    });
    let told = agree(&agent, 1, "behind");
    waited(&agent, 1);
    assert_eq!(told["syncd_agent_target_connected"], 0.0);
    assert_eq!(told["syncd_agent_target_in_flight_paths"], 0.0);
    assert!(told["syncd_agent_target_sent_bytes_total"] >= sent);
    let later = numbers(&agent);
    assert!(later["syncd_agent_target_lag_seconds"] > told["syncd_agent_target_lag_seconds"]);
    wait_until(LONG, "the next try is told", || {
        numbers(&agent).contains_key("syncd_agent_target_next_try_seconds")
    });
    // And nobody to ask is a number as well.
    let socket = agent.control().path().to_owned();
    drop(agent);
    let mut command = Command::new(&Binaries::locate().agent);
    let output = command
        .arg("metrics")
        .arg("--control")
        .arg(&socket)
        .output();
    let output = output.expect("an answer");
    assert_eq!(output.status.code(), Some(69));
    let samples = read(std::str::from_utf8(&output.stdout).expect("UTF-8")).expect("a text");
    assert_eq!(
        (&*samples[0].name, samples[0].value),
        ("syncd_agent_up", 0.0)
    );
}

#[test]
fn a_path_that_fails() {
    let probe = tempfile::NamedTempFile::new().expect("a file");
    let there = Immutable::make(&[probe.path().to_owned()]).is_some();
    if !require(&[Need::Root, Need::Other("chattr +i", there)]) {
        return;
    }
    let mirror = Mirror::start();
    fs::write(mirror.src("stone"), "old").expect("write");
    mirror.settle();
    let paths = [mirror.dst("stone")];
    let immutable = Immutable::make(&paths).expect("chattr");
    fs::write(mirror.src("stone"), "new").expect("write");
    wait_until(LONG, "it has failed", || {
        numbers(&mirror.agent)["syncd_agent_target_failed_paths"] > 0.0
    });
    let told = agree(&mirror.agent, 2, "degraded");
    assert_eq!(told["syncd_agent_target_failed_paths"], 1.0);
    assert_eq!(told["syncd_agent_target_connected"], 1.0);
    waited(&mirror.agent, 2);
    drop(immutable);
    mirror.agent.control().rescan(".").expect("rescan");
    mirror.settle();
    let told = agree(&mirror.agent, 0, "in sync");
    assert_eq!(told["syncd_agent_target_failed_paths"], 0.0);
}

/// What the rules leave out never is durable, and a path is waited for where it leads to.
#[test]
fn a_path_is_waited_for_where_it_leads_to_or_not_at_all() {
    let mirror = Mirror::with(Sandbox::new(), |agent| {
        agent
            .arg("--exclude")
            .arg("*.tmp")
            .arg("--exclude")
            .arg("/scratch/")
    });
    fs::create_dir_all(mirror.src("releases/7")).expect("mkdir");
    symlink("releases/7", mirror.src("current")).expect("symlink");
    symlink(mirror.sandbox.path(), mirror.src("out")).expect("symlink");
    mirror.agent.wait_synced(LONG);
    for name in ["x.tmp", "releases/7/x.tmp"] {
        fs::write(mirror.src(name), "left out").expect("write");
    }
    fs::create_dir(mirror.src("scratch")).expect("mkdir");
    let wait = |name: &str| {
        let path = mirror.src(name);
        let path = path.to_str().expect("UTF-8");
        ask(&mirror.agent, "wait", &["--timeout", "1", path]).0
    };
    for left_out in [
        "x.tmp",
        "current/x.tmp",
        "scratch",
        "scratch/below",
        ".syncd/x",
    ] {
        assert_eq!(wait(left_out), Some(3), "{left_out}");
        assert!(!mirror.dst(left_out).exists() || left_out == ".syncd/x");
    }
    for elsewhere in [
        "out/password",
        "..",
        "../password",
        "current/../../../password",
    ] {
        assert_eq!(wait(elsewhere), Some(3), "{elsewhere}");
    }
    for there in [
        "",
        "current",
        "current/",
        "out",
        "current/../7/none",
        "none",
    ] {
        assert_eq!(wait(there), Some(0), "{there}");
    }
    let Mirror {
        agent,
        receiver,
        sandbox,
    } = mirror;
    drop(receiver);
    fs::write(sandbox.src().join("releases/7/page"), "new").expect("write");
    for page in [
        "releases/7/page",
        "current/page",
        "releases/../current/page",
    ] {
        let path = sandbox.src().join(page);
        let asked = ["--timeout", "1", path.to_str().expect("UTF-8")];
        assert_eq!(ask(&agent, "wait", &asked).0, Some(1), "{page}");
    }
}

#[test]
fn deletes_that_are_held() {
    let sandbox = Sandbox::new();
    many_small(&sandbox.src().join("goes"), 6, 50, 50).expect("files");
    fs::write(sandbox.src().join("stays"), "here").expect("write");
    let receiver = sandbox.receiver().start();
    let agent = sandbox.agent(&receiver).start();
    agent.wait_synced(LONG);
    agree(&agent, 0, "in sync");
    fs::remove_dir_all(sandbox.src().join("goes")).expect("rm");
    wait_until(LONG, "the brake is on", || {
        numbers(&agent)["syncd_agent_target_brake_engaged"] == 1.0
    });
    // Who waits for one of them waits for the removal above it, and nobody else does.
    for (name, code) in [
        ("goes", 2),
        ("goes/d00001", 2),
        ("goes/d00001/f00001", 2),
        ("stays", 0),
    ] {
        let path = sandbox.src().join(name);
        let asked = ["--timeout", "1", path.to_str().expect("UTF-8")];
        assert_eq!(ask(&agent, "wait", &asked).0, Some(code), "{name}");
    }
    let told = agree(&agent, 2, "degraded");
    assert!(told["syncd_agent_target_held_deletes"] > 0.0, "{told:?}");
    assert!(told["syncd_agent_target_held_seconds"] >= 0.0);
    waited(&agent, 2);
    let status = agent.control().status().expect("status");
    let id = status["status"]["sources"][0]["held"]["id"].as_str();
    let (code, text) = ask(&agent, "approve", &[id.expect("an id")]);
    assert_eq!(code, Some(0), "{text}");
    agent.wait_synced(LONG);
    let told = agree(&agent, 0, "in sync");
    assert_eq!(told["syncd_agent_target_held_deletes"], 0.0);
}

/// Everybody who follows what becomes durable is told of it, who came later of what came later.
#[test]
fn changes_are_told_to_whoever_follows_them() {
    let mirror = Mirror::start();
    let mut followers = Vec::new();
    for (name, op) in [("a", "put"), ("d", "mkdir"), ("a", "remove")] {
        let mut stream = UnixStream::connect(mirror.agent.control().path()).expect("connect");
        stream.write_all(b"{\"cmd\":\"events\"}\n").expect("ask");
        stream.set_read_timeout(Some(LONG)).expect("a limit");
        let mut lines = BufReader::new(stream).lines();
        let mut follower = move || -> Value {
            let line = lines.next().expect("a line").expect("in time");
            serde_json::from_str(&line).expect("JSON")
        };
        assert_eq!(follower()["ok"], true);
        followers.push(follower);
        match op {
            "put" => fs::write(mirror.src(name), "12345").expect("write"),
            "mkdir" => fs::create_dir(mirror.src(name)).expect("mkdir"),
            _ => fs::remove_file(mirror.src(name)).expect("remove"),
        }
        for follower in &mut followers {
            // There may be more, as of the times of the directory that it is in.
            let is_it = |event: &Value| event["path"] == name && event["op"] == op;
            let event = std::iter::repeat_with(follower).find(is_it).expect("it");
            assert_eq!(event["event"], "durable", "{event}");
            assert_eq!(event["bytes"], if op == "put" { 5 } else { 0 }, "{event}");
        }
    }
}

#[test]
fn events_that_were_dropped() {
    let text = fs::read_to_string("/proc/sys/fs/inotify/max_queued_events");
    let length = text.ok().and_then(|text| text.trim().parse::<usize>().ok());
    let length = length.filter(|length| *length <= 1 << 17);
    if !require(&[Need::Other("a queue of usual length", length.is_some())]) {
        return;
    }
    let mirror = Mirror::start();
    agree(&mirror.agent, 0, "in sync");
    let before = numbers(&mirror.agent)["syncd_agent_source_rescans_total"];
    mirror.agent.signal(Signal::STOP);
    for number in 0..length.unwrap_or_default() / 2 {
        let path = mirror.src(format!("flood-{number}"));
        File::create(&path).expect("create");
        fs::remove_file(&path).expect("remove");
    }
    fs::write(mirror.src("unheard"), "of").expect("write");
    mirror.agent.signal(Signal::CONT);
    wait_until(LONG, "the overflow is counted", || {
        numbers(&mirror.agent)["syncd_agent_source_overflows_total"] == 1.0
    });
    mirror.settle();
    let told = agree(&mirror.agent, 0, "in sync");
    assert_eq!(told["syncd_agent_source_overflows_total"], 1.0);
    assert!(
        told["syncd_agent_source_rescans_total"] > before,
        "{told:?}"
    );
    assert_eq!(told["syncd_agent_source_problems"], 0.0);
}

#[test]
fn directories_that_are_watched_are_counted_when_they_go_too() {
    for backend in ["inotify", "notify"] {
        let mirror = Mirror::with(Sandbox::new(), |agent| agent.arg("--backend").arg(backend));
        for dir in ["a/b/c", "x/y", "out/below"] {
            fs::create_dir_all(mirror.src(dir)).expect("mkdir");
        }
        mirror.settle();
        let counted = |count: f64| {
            let what = format!("{backend}: {count} directories are watched");
            wait_for(LONG, &what, || {
                let found = numbers(&mirror.agent)["syncd_agent_source_watched_directories"];
                let is_it = found == count;
                is_it.then_some(()).ok_or_else(|| found.to_string())
            });
        };
        counted(8.0);
        // Nothing is made from here on, so that nothing else has the scanner look.
        fs::remove_dir_all(mirror.src("a")).expect("rm");
        counted(5.0);
        fs::rename(mirror.src("x"), mirror.src("z")).expect("mv");
        mirror.settle();
        counted(5.0);
        fs::rename(mirror.src("out"), mirror.sandbox.path().join("outside")).expect("mv");
        counted(3.0);
        fs::remove_dir(mirror.src("z/y")).expect("rmdir");
        counted(2.0);
        mirror.settle();
        agree(&mirror.agent, 0, "in sync");
    }
}

/// What a receiver says at this socket: how the command ended, and its text.
fn ask_receiver(socket: &Path, name: &str, args: &[&str]) -> (Option<i32>, String) {
    let mut command = Command::new(&Binaries::locate().receiver);
    let asked = command.arg(name).args(args).arg("--control").arg(socket);
    let Output { status, stdout, .. } = asked.output().expect("an answer");
    (status.code(), String::from_utf8(stdout).expect("UTF-8"))
}

/// The report of a receiver; its text and its numbers must say the same.
#[track_caller]
fn receiver_report(socket: &Path) -> Value {
    let (code, json) = ask_receiver(socket, "status", &["--json"]);
    assert_eq!(code, Some(0), "{json}");
    serde_json::from_str(&json).expect("JSON")
}

/// Waits until this is true of the report, and the numbers agree with it; then gives it.
#[track_caller]
fn wait_receiver(socket: &Path, what: &str, is_so: impl Fn(&Value) -> bool) -> Value {
    wait_for(LONG, what, || {
        let report = receiver_report(socket);
        if !is_so(&report) {
            return Err(report.to_string());
        }
        let (code, text) = ask_receiver(socket, "metrics", &[]);
        assert_eq!(code, Some(0), "{text}");
        let samples = read(&text).unwrap_or_else(|error| panic!("{error}: {text}"));
        let (module, peer) = (&report["modules"][0], &report["peers"][0]);
        for (name, value) in [
            ("refused_connections_total", &report["refused"]),
            ("module_sessions", &module["open"]),
            ("module_sessions_total", &module["counts"]["sessions"]),
            (
                "module_durable_commits_total",
                &module["counts"]["commits_durable"],
            ),
            (
                "module_applied_commits_total",
                &module["counts"]["commits_applied"],
            ),
            (
                "module_received_bytes_total",
                &module["counts"]["bytes_received"],
            ),
            ("peer_sessions", &peer["open"]),
            ("peer_left_timestamp_seconds", &peer["left_s"]),
            ("peer_durable_timestamp_seconds", &peer["durable_s"]),
        ] {
            let name = format!("syncd_recv_{name}");
            let found = samples.iter().find(|sample| sample.name == name);
            let found = found.map(|sample| sample.value);
            if found != value.as_f64() {
                return Err(format!("{name} is {found:?}, not {value}"));
            }
        }
        Ok(report)
    })
}

#[test]
fn a_receiver_says_who_is_here_how_far_and_what_failed() {
    let sandbox = Sandbox::new();
    let socket = sandbox.path().join("recv.sock");
    let port = ReservedPort::take();
    let control = socket.as_os_str().to_owned();
    let receiver = sandbox.receiver().port(port.number());
    let receiver = receiver.arg("--control").arg(control).start();
    let said = ask_receiver(&socket, "status", &[]);
    assert!(said.1.starts_with("0 sessions  (syncd-recv "), "{said:?}");
    many_small(&sandbox.src(), 3, 5, 50).expect("files");
    let builder = patient(sandbox.agent(&receiver));
    let agent = builder.start();
    agent.wait_synced(LONG);
    // The same log, seen from both ends.
    let report = wait_receiver(&socket, "the agent is here", |report| {
        report["peers"][0]["durable_seq"] == target_of(&agent)["last_durable_seq"]
    });
    let peer = &report["peers"][0];
    assert_eq!((&peer["open"], &peer["left_s"]), (&1.into(), &Value::Null));
    assert_eq!(peer["applied_seq"], peer["durable_seq"]);
    assert_eq!(
        (&peer["user"], &peer["address"]),
        (&"mirror".into(), &"127.0.0.1".into())
    );
    assert!(
        peer["identity"]
            .as_str()
            .is_some_and(|name| name.contains("agent"))
    );
    assert!(peer["counts"]["commits_durable"].as_u64() > Some(0));
    assert!(peer["counts"]["bytes_received"].as_u64() > Some(500));
    // A worker that dies takes nothing of that with it.
    receiver.kill_workers();
    let before = peer["counts"]["commits_durable"].as_u64();
    fs::write(sandbox.src().join("after"), "the crash").expect("write");
    let report = wait_receiver(&socket, "counts go on after a worker's end", |report| {
        report["peers"][0]["counts"]["commits_durable"].as_u64() > before
    });
    assert_eq!(report["peers"][0]["counts"]["sessions"], 2);
    agent.wait_synced(LONG);
    // Who is refused is told, and who is gone as well.
    let wrong = sandbox.path().join("wrong.pass");
    fs::write(&wrong, "not it\n").expect("write");
    fs::set_permissions(&wrong, Permissions::from_mode(0o600)).expect("chmod");
    let stranger = builder.clone().password_file(&wrong);
    let said = once(&sandbox, &stranger, "verify");
    assert_ne!(said.exit, code::DONE, "{}", said.text);
    drop(agent);
    let report = wait_receiver(&socket, "it has gone", |report| {
        report["peers"][0]["open"] == 0 && report["refused"] == 1
    });
    assert!(report["peers"][0]["left_s"].is_u64());
    let refusal = &report["refusals"][0];
    assert_eq!(
        (&refusal["address"], &refusal["module"]),
        (&"127.0.0.1".into(), &MODULE.into())
    );
    let (_, text) = ask_receiver(&socket, "status", &[]);
    for part in [
        "gone for",
        "1 connections refused",
        "as mirror",
        "commits durable",
    ] {
        assert!(text.contains(part), "{part}: {text}");
    }
    // A private socket, which goes with its receiver.
    let mode = fs::metadata(&socket).expect("socket").permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    receiver.signal(Signal::TERM);
    assert_eq!(receiver.wait_exit(LONG), code::DONE);
    assert!(!socket.exists());
    let (code, text) = ask_receiver(&socket, "metrics", &[]);
    assert_eq!(code, Some(69));
    let samples = read(&text).expect("a text");
    assert_eq!(
        (&*samples[0].name, samples[0].value),
        ("syncd_recv_up", 0.0)
    );
    assert_eq!(ask_receiver(&socket, "status", &[]).0, Some(69));
}

#[test]
fn a_receiver_counts_what_it_refuses() {
    let probe = tempfile::NamedTempFile::new().expect("a file");
    let there = Immutable::make(&[probe.path().to_owned()]).is_some();
    if !require(&[Need::Root, Need::Other("chattr +i", there)]) {
        return;
    }
    let sandbox = Sandbox::new();
    let socket = sandbox.path().join("recv.sock");
    let control = socket.as_os_str().to_owned();
    let receiver = sandbox.receiver().arg("--control").arg(control).start();
    fs::write(sandbox.src().join("stone"), "old").expect("write");
    let agent = patient(sandbox.agent(&receiver)).start();
    agent.wait_synced(LONG);
    let paths = [sandbox.dst().join("stone")];
    let _immutable = Immutable::make(&paths).expect("chattr");
    fs::write(sandbox.src().join("stone"), "new").expect("write");
    let code = "file is immutable or append-only";
    let report = wait_receiver(&socket, "a refusal is counted", |report| {
        report["modules"][0]["counts"]["rejected"][code].as_u64() > Some(0)
    });
    let last = report["peers"][0]["last_failure"].as_str();
    assert!(last.is_some_and(|last| last.starts_with(code)), "{last:?}");
    let (_, text) = ask_receiver(&socket, "metrics", &[]);
    let samples = read(&text).expect("a text");
    let counted = samples.iter().find(|sample| {
        sample.name == "syncd_recv_module_rejects_total" && sample.labels["code"] == code
    });
    assert!(counted.is_some_and(|sample| sample.value >= 1.0), "{text}");
    assert!(!text.contains("stone"), "no path is a label: {text}");
}
