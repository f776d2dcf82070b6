//! Both programs of syncd, with mutual TLS, `auth users` and the durability of the variant.

use std::path::Path;
use std::time::Duration;

use syncd_tests::sandbox::{MODULE, USER};
use syncd_tests::wait::try_wait_for;
use syncd_tests::{Agent, Receiver};

use super::super::place::Place;
use super::service::crash;
use super::{FIRST_PATIENCE, Goal, PATIENCE, Peer};

const STOP_TIMEOUT: Duration = Duration::from_secs(30);
/// As in production; the harness would log everything.
const LOG: (&str, &str) = ("RUST_LOG", "info");

/// syncd as a peer.
pub(super) struct Syncd {
    receiver: Receiver,
    agent: Option<Agent>,
    options: &'static [&'static str],
}

impl Syncd {
    pub(super) fn new(
        place: &mut Place,
        port: u16,
        durability: &str,
        options: &'static [&'static str],
    ) -> Result<Self, String> {
        place
            .sandbox
            .conf()
            .module(MODULE)
            .set("durability", durability);
        Ok(Self {
            receiver: receiver(place, port),
            agent: None,
            options,
        })
    }

    fn wait(&self, path: Option<&Path>, patience: Duration) -> Result<(), String> {
        let agent = self.agent.as_ref().ok_or("no agent was started")?;
        let path = path
            .map(Path::to_str)
            .map(|path| path.ok_or("not UTF-8"))
            .transpose()?;
        let answer = agent
            .control()
            .wait(path, patience)
            .map_err(|error| error.to_string())?;
        match answer["verdict"].as_str() {
            Some("in_sync") | None => Ok(()),
            Some(_) => Err(format!("agent: {answer}; {}", agent.tail())),
        }
    }
}

fn receiver(place: &Place, port: u16) -> Receiver {
    place
        .sandbox
        .receiver()
        .port(port)
        .env(LOG.0, LOG.1)
        .start()
}

impl Peer for Syncd {
    fn start(&mut self, place: &Place) -> Result<(), String> {
        let agent = place.sandbox.agent(&self.receiver).source(place.source());
        let agent = agent.destination(&format!("{USER}@{}::{MODULE}", place.host()));
        let agent = self
            .options
            .iter()
            .fold(agent, |agent, option| agent.arg(option));
        self.agent = Some(
            agent
                .env(LOG.0, LOG.1)
                .arg("--max-delete")
                .arg("unlimited")
                .arg("--server-name")
                .arg("localhost")
                .start(),
        );
        Ok(())
    }

    fn settle(&mut self, _: &Place) -> Result<(), String> {
        self.wait(None, FIRST_PATIENCE)?;
        let agent = self.agent.as_ref().ok_or("no agent was started")?;
        // What the first comparison finds is known only after it.
        try_wait_for(FIRST_PATIENCE, || {
            let answer = agent
                .control()
                .status()
                .map_err(|error| error.to_string())?;
            let target = &answer["status"]["sources"][0]["targets"][0];
            let done =
                target["first_sync"].is_null() && target["dirty"] == 0 && target["in_flight"] == 0;
            let quiet = answer["verdict"] == "in_sync";
            if done && quiet {
                Ok(())
            } else {
                Err(answer.to_string())
            }
        })
    }

    fn stop(&mut self) {
        if let Some(agent) = self.agent.take() {
            agent.terminate(STOP_TIMEOUT);
        }
    }

    fn finish(&mut self, _: &Place, _: Goal<'_>) -> Result<(), String> {
        self.wait(None, PATIENCE)
    }

    fn durable(&mut self, _: &Place, path: &Path) -> Result<bool, String> {
        self.wait(Some(path), PATIENCE).map(|()| true)
    }

    fn receivers(&self) -> Vec<u32> {
        vec![self.receiver.pid()]
    }

    fn crash_receiver(&mut self, place: &Place) -> Result<(), String> {
        let port = self.receiver.port();
        crash(self.receiver.pid());
        self.receiver.kill9();
        self.receiver = receiver(place, port);
        Ok(())
    }
}
