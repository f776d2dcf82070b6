//! Where messages go: standard error, and the log file or system log that a configuration names.

use std::fmt::{self, Write};
use std::io::{self, IsTerminal};
use std::sync::{Arc, OnceLock};

use tracing::field::{Field, Visit};
use tracing::level_filters::LevelFilter;
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::layer::{Context, SubscriberExt};
use tracing_subscriber::util::SubscriberInitExt;

use crate::fs::logbook::{Grave, Logbook, Target, harmless};

/// The log that the configuration names for everything; one for the process, as messages are.
static BOOK: OnceLock<Arc<Logbook>> = OnceLock::new();

/// Messages go to standard error from now on.
pub fn start(level: LevelFilter, as_json: bool) {
    let book = Arc::clone(BOOK.get_or_init(Arc::default));
    let stderr = tracing_subscriber::fmt::layer()
        .with_target(false)
        .with_writer(io::stderr)
        // Where nothing can be written, that cannot be either.
        .log_internal_errors(false);
    let stderr = if as_json {
        stderr.json().flatten_event(true).boxed()
    } else {
        stderr.with_ansi(io::stderr().is_terminal()).boxed()
    };
    let all = tracing_subscriber::registry()
        .with(level)
        .with(stderr)
        .with(Second(book));
    // Fails only if it has been done before.
    let _ = all.try_init();
}

/// They also go there from now on.
pub fn also_to(target: Target) {
    if let Some(book) = BOOK.get() {
        book.redirect(target);
    }
}

/// Writes each message to the log that the configuration names.
#[derive(Debug)]
struct Second(Arc<Logbook>);

impl<S: Subscriber> Layer<S> for Second {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let grave = match *event.metadata().level() {
            Level::ERROR => Grave::Error,
            Level::WARN => Grave::Warning,
            Level::INFO => Grave::Info,
            _ => Grave::Debug,
        };
        let mut line = Line::default();
        event.record(&mut line);
        let text = format!("{}{}", line.message, line.fields);
        self.0.write(grave, &[harmless(&text)]);
    }
}

#[derive(Debug, Default)]
struct Line {
    message: String,
    fields: String,
}

impl Visit for Line {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        let _ = match field.name() {
            "message" => write!(self.message, "{value:?}"),
            name => write!(self.fields, " {name}={value:?}"),
        };
    }
}
