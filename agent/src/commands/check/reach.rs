//! Each target, as far as its `Welcome`.

use syncd_proto::message::{AgentMessage, Bye, Purpose};
use tokio::runtime;

use super::local::Ready;
use super::{Finding, Report};
use crate::error::Fatal;
use crate::logic::config::{Config, Source, TargetConfig};
use crate::net::handshake::{self, ConnectError, Connected, Dial};
use syncd_proto::reject::RejectCode;

/// Calls each target whose files can be used.
pub(super) fn targets(
    config: &Config,
    ready: &[Ready],
    running: bool,
    report: &mut Report,
) -> Result<(), Fatal> {
    let runtime = runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let of_sources = config.sources.iter().flat_map(|source| {
        let targets = source.targets.iter();
        targets.map(move |target| (source, target))
    });
    for ((source, target), ready) in of_sources.zip(ready) {
        let finding = match ready {
            Some(ready) => runtime.block_on(call(source, target, ready, running)),
            None => Finding::broken(
                subject(target),
                "not called: its certificate, key or password cannot be used",
                "see above",
            ),
        };
        report.add(finding);
    }
    Ok(())
}

fn subject(target: &TargetConfig) -> String {
    format!("target {}", target.to)
}

async fn call(
    source: &Source,
    target: &TargetConfig,
    ready: &(
        crate::net::tls::TlsSettings,
        Option<crate::logic::password::Password>,
    ),
    running: bool,
) -> Finding {
    let dial = Dial {
        tls: &ready.0,
        password: ready.1.as_ref(),
        timeout: target.access.connect_timeout,
        compress: target.access.compress,
        spare: false,
        attributes: source.attributes,
        names: &[],
    };
    let subject = subject(target);
    match handshake::connect(&dial, &target.to, Purpose::Mirror).await {
        Ok(connected) => {
            let text = welcome(&connected);
            leave(connected).await;
            Finding::well(subject, text)
        }
        // The one place of a writer is taken; everything before that has been agreed to.
        Err(ConnectError::Refused {
            code: RejectCode::Busy,
            text,
        }) if running => Finding::well(subject, format!("in use: {text}")),
        Err(error) => Finding::broken(subject, error.to_string(), error.hint()),
    }
}

fn welcome(connected: &Connected) -> String {
    let peer = connected.peer;
    let receiver = syncd_proto::path::escaped(connected.welcome.receiver.as_bytes());
    let times = match connected.welcome.compare.mtime.words() {
        Some(times) => format!("; times are kept and compared {times}"),
        None => String::new(),
    };
    format!("welcome at {peer} ({receiver}), and may write{times}")
}

/// Says good-bye, so that nobody waits for this session.
async fn leave(mut connected: Connected) {
    let bye = AgentMessage::Bye(Bye {
        text: "checked".to_owned(),
    });
    if let Ok(frame) = connected.session.frame(&bye, Vec::new()) {
        let _ = connected.writer.feed(&frame).await;
        let _ = connected.writer.flush().await;
    }
}
