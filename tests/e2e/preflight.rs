//! `syncd-agent check` with a real receiver: each target is called as far as its `Welcome`, and nothing is mirrored.

use std::fs;
use std::process::Command;

use syncd_tests::sandbox::{MODULE, USER};
use syncd_tests::{Binaries, Receiver, Sandbox};

use crate::common::{Mirror, Said, code, run};

/// `check` of a configuration for the sandbox.
fn check(sandbox: &Sandbox, receiver: &Receiver, control: &str) -> Said {
    let certs = sandbox.certs();
    let text = format!(
        "control = \"{control}\"\n[[source]]\npath = \"src\"\n[[source.target]]\n\
         to = \"syncd://{USER}@localhost:{}/{MODULE}\"\nca = \"{certs}/ca.pem\"\ncert = \"{certs}/agent.pem\"\n\
         key = \"{certs}/agent.key\"\npassword_file = \"password\"\n",
        receiver.port(),
        certs = certs.display()
    );
    let file = sandbox.path().join("agent.toml");
    fs::write(&file, text).expect("configuration");
    let mut command = Command::new(&Binaries::locate().agent);
    command.arg("check").arg("--config").arg(&file);
    run(sandbox, &mut command)
}

/// The line of the target, whatever this machine's limits are.
fn target(said: &Said) -> String {
    let lines = &said.text;
    let line = lines.lines().find(|line| line.contains(" target "));
    line.unwrap_or_else(|| panic!("no target in {lines}"))
        .to_owned()
}

#[test]
fn a_target_is_called_and_nothing_is_mirrored() {
    let sandbox = Sandbox::new();
    fs::write(sandbox.src().join("file"), "not to be sent\n").expect("file");
    let receiver = sandbox.receiver().start();
    for _ in 0..2 {
        // Twice: the first has not kept the place.
        let line = target(&check(&sandbox, &receiver, "check.sock"));
        assert!(
            line.starts_with("ok ") && line.contains("welcome at 127.0.0.1"),
            "{line}"
        );
    }
    assert!(!sandbox.dst().join("file").exists());
}

#[test]
fn what_the_receiver_refuses_is_told_with_its_fix() {
    let sandbox = Sandbox::new();
    let receiver = sandbox.receiver().start();
    fs::write(sandbox.password_file(), "wrong\n").expect("password");
    let said = check(&sandbox, &receiver, "check.sock");
    let line = target(&said);
    assert!(
        line.starts_with("FAILED ") && line.contains("check user and password file here"),
        "{line}"
    );
    said.expect(code::DEGRADED, &[]);
}

#[test]
fn an_agent_that_runs_keeps_its_place() {
    let mirror = Mirror::start();
    let control = mirror.agent.control().path().display().to_string();
    let line = target(&check(&mirror.sandbox, &mirror.receiver, &control));
    assert!(
        line.starts_with("ok ") && line.contains("in use: "),
        "{line}"
    );
    // Somebody else's is another matter.
    let line = target(&check(&mirror.sandbox, &mirror.receiver, "check.sock"));
    assert!(
        line.starts_with("FAILED ") && line.contains("writes here already"),
        "{line}"
    );
    fs::write(mirror.src("after"), "still mirrored\n").expect("file");
    mirror.settle();
}
