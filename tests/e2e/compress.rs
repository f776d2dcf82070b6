//! Compression: where the link is slow and the content shrinks, unless one side does not want it.

use std::fs;

use syncd_tests::programs::AgentBuilder;
use syncd_tests::sandbox::MODULE;
use syncd_tests::{Receiver, Sandbox};

use crate::common::{LONG, Mirror, noise};

/// Bytes of what is sent.
const LARGE: usize = 3 << 20;
const SMALL: usize = 20_000;
const SMALL_FILES: usize = 50;

/// A log file of so many bytes.
fn log(bytes: usize) -> Vec<u8> {
    let lines = (0u64..).flat_map(|line| {
        let text = format!(
            "203.0.113.{} - - GET /index.html?id={line} 200\n",
            line % 250
        );
        text.into_bytes()
    });
    lines.take(bytes).collect()
}

/// Sends the same files over a link of 1 MiB/s; the bytes it took.
#[track_caller]
fn cost(sandbox: Sandbox, receiver: Receiver, agent: AgentBuilder) -> u64 {
    for number in 0..SMALL_FILES {
        fs::write(sandbox.src().join(format!("small{number}")), log(SMALL)).expect("write");
    }
    fs::write(sandbox.src().join("large"), log(LARGE)).expect("write");
    fs::write(sandbox.src().join("photo"), noise(SMALL, 3)).expect("write");
    let agent = agent.arg("--bwlimit").arg("1M").start();
    agent.wait_synced(LONG);
    let mirror = Mirror {
        agent,
        receiver,
        sandbox,
    };
    mirror.settle();
    mirror.bytes_sent()
}

const WHOLE: u64 = (LARGE + SMALL * SMALL_FILES) as u64;

#[test]
fn what_shrinks_is_compressed_where_the_link_is_slow() {
    let sandbox = Sandbox::new();
    let receiver = sandbox.receiver().start();
    let agent = sandbox.agent(&receiver);
    let bytes = cost(sandbox, receiver, agent);
    // The link has to be found slow first.
    assert!(bytes < WHOLE * 6 / 10, "{bytes} of {WHOLE}");
}

#[test]
fn an_agent_may_send_everything_as_it_is() {
    let sandbox = Sandbox::new();
    let receiver = sandbox.receiver().start();
    let agent = sandbox.agent(&receiver).arg("--no-compress");
    let bytes = cost(sandbox, receiver, agent);
    assert!(bytes >= WHOLE, "{bytes} of {WHOLE}");
}

#[test]
fn a_module_that_refuses_compression_gets_none() {
    let mut sandbox = Sandbox::new();
    let module = sandbox.conf().module(MODULE);
    module.set("refuse options", "delete-after !delete compress");
    let receiver = sandbox.receiver().start();
    let agent = sandbox.agent(&receiver);
    let bytes = cost(sandbox, receiver, agent);
    assert!(bytes >= WHOLE, "{bytes} of {WHOLE}");
}
