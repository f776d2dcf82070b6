//! Cells, their medians and ranges as a table, and everything as JSON.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::fs;
use std::path::Path;

use serde_json::{Value, json};

use super::args::{Arguments, Scale};
use super::isolate;
use super::meter::Metrics;
use super::peer::{Kind, version};
use super::scenario::Outcome;

/// One run of one scenario with one peer.
pub(crate) struct Cell {
    scenario: &'static str,
    peer: &'static str,
    round: u32,
    load: f64,
    metrics: Metrics,
    /// Why it does not count: an error, or the differences of the trees.
    failure: Option<String>,
}

impl Cell {
    pub(crate) fn new(
        scenario: &'static str,
        peer: &'static str,
        round: u32,
        result: Result<Outcome, String>,
    ) -> Self {
        let (metrics, failure) = match result {
            Ok(outcome) => (outcome.metrics, outcome.differences),
            Err(text) => (Metrics::new(), Some(text)),
        };
        Self {
            scenario,
            peer,
            round,
            load: load(),
            metrics,
            failure,
        }
    }

    /// For the terminal, as soon as it is known.
    pub(crate) fn line(&self) -> String {
        let mut line = format!(
            "{} {} #{} (load {:.1})",
            self.scenario, self.peer, self.round, self.load
        );
        for (name, value) in &self.metrics {
            let _ = write!(line, " {name}={}", number(*value));
        }
        if let Some(failure) = &self.failure {
            let _ = write!(line, " NOT EQUAL: {failure}");
        }
        line
    }

    fn json(&self) -> Value {
        json!({"scenario": self.scenario, "peer": self.peer, "round": self.round, "load": self.load,
               "metrics": self.metrics, "equal": self.failure.is_none(), "failure": self.failure})
    }
}

/// All cells so far.
pub(crate) struct Report {
    setting: Value,
    peers: Vec<&'static str>,
    cells: Vec<Cell>,
}

impl Report {
    pub(crate) fn new(
        arguments: &Arguments,
        peers: &[Kind],
        missing: Vec<(String, String)>,
    ) -> Self {
        let read = |path: &str| {
            fs::read_to_string(path)
                .unwrap_or_default()
                .trim()
                .to_owned()
        };
        let cpu = read("/proc/cpuinfo");
        let model = cpu.lines().find_map(|line| line.strip_prefix("model name"));
        let memory = read("/proc/meminfo");
        let setting = json!({
            "kernel": read("/proc/sys/kernel/osrelease"),
            "cpu": model.map(|name| name.trim_start_matches([' ', '\t', ':'])),
            "cpus": std::thread::available_parallelism().map_or(0, usize::from),
            "memory": memory.lines().next(),
            "rsync": version("rsync"),
            "lsyncd": version("lsyncd"),
            "ssh": version("ssh"),
            "stunnel": version("stunnel4"),
            "inotifywait": version("inotifywait"),
            "tcp_congestion_control": read("/proc/sys/net/ipv4/tcp_congestion_control"),
            "fs": arguments.fs.name(),
            "images": arguments.images,
            "scale": match arguments.scale { Scale::Small => "small", Scale::Full => "full" },
            "private_network": isolate::is_private(),
            "missing": missing.into_iter().collect::<BTreeMap<_, _>>(),
        });
        Self {
            setting,
            peers: peers.iter().map(Kind::name).collect(),
            cells: Vec::new(),
        }
    }

    /// A scenario that cannot be run here.
    pub(crate) fn miss(&mut self, scenario: &str, reason: String) {
        self.setting["missing"][scenario] = Value::from(reason);
    }

    pub(crate) fn add(&mut self, cell: Cell) {
        self.cells.push(cell);
    }

    /// Whether every cell ended as it should.
    pub(crate) fn all_equal(&self) -> bool {
        self.cells.iter().all(|cell| cell.failure.is_none())
    }

    /// Writes what is known up to now.
    pub(crate) fn save(&self, path: Option<&Path>) -> Result<(), String> {
        let Some(path) = path else { return Ok(()) };
        let cells: Vec<Value> = self.cells.iter().map(Cell::json).collect();
        let text = format!("{:#}\n", json!({"setting": self.setting, "cells": cells}));
        fs::write(path, text).map_err(|error| format!("{}: {error}", path.display()))
    }

    /// A line for each scenario and value: median, range and ratio to the first peer.
    pub(crate) fn table(&self) -> String {
        let mut text = format!("| scenario | value | {} |\n", self.peers.join(" | "));
        text.push_str(&"|---".repeat(self.peers.len() + 2));
        text.push_str("|\n");
        let mut rows: Vec<(&str, &str)> = Vec::new();
        for cell in &self.cells {
            let names = cell.metrics.keys().map(|name| (cell.scenario, *name));
            rows.extend(names.collect::<Vec<_>>());
        }
        let order: Vec<&str> = self.cells.iter().map(|cell| cell.scenario).collect();
        rows.sort_by_key(|(scenario, name)| {
            (order.iter().position(|known| known == scenario), *name)
        });
        rows.dedup();
        for (scenario, name) in rows {
            let _ = write!(text, "| {scenario} | {name} |");
            let first = self
                .peers
                .first()
                .and_then(|peer| self.values(scenario, peer, name));
            for peer in &self.peers {
                let shown = self
                    .values(scenario, peer, name)
                    .map(|values| shown(&values, first.as_deref()));
                let _ = write!(text, " {} |", shown.as_deref().unwrap_or("-"));
            }
            text.push('\n');
        }
        text
    }

    /// The sorted values of the good cells; nothing if there is none.
    fn values(&self, scenario: &str, peer: &str, name: &str) -> Option<Vec<f64>> {
        let good = self.cells.iter().filter(|cell| cell.failure.is_none());
        let ours = good.filter(|cell| cell.scenario == scenario && cell.peer == peer);
        let mut values: Vec<f64> = ours
            .filter_map(|cell| cell.metrics.get(name).copied())
            .collect();
        values.sort_by(f64::total_cmp);
        (!values.is_empty()).then_some(values)
    }
}

fn shown(values: &[f64], reference: Option<&[f64]>) -> String {
    let middle = median(values);
    let mut text = number(middle);
    let (lowest, highest) = (values[0], values[values.len() - 1]);
    if values.len() > 1 {
        let _ = write!(text, " [{}-{}]", number(lowest), number(highest));
    }
    if let Some(base) = reference.map(median).filter(|&base| base > 0.0) {
        let _ = write!(text, " ({}x)", number(middle / base));
    }
    text
}

fn median(sorted: &[f64]) -> f64 {
    let half = sorted.len() / 2;
    match sorted.len() {
        0 => 0.0,
        length if length % 2 == 1 => sorted[half],
        _ => (sorted[half - 1] + sorted[half]) / 2.0,
    }
}

/// Three significant digits, with k, M, G from 10 000 on.
fn number(value: f64) -> String {
    for (unit, sign) in [(1e9, "G"), (1e6, "M"), (1e3, "k")] {
        if value.abs() >= unit && value.abs() >= 1e4 {
            return format!("{:.1}{sign}", value / unit);
        }
    }
    match value.abs() {
        size if size >= 100.0 || value == 0.0 => format!("{value:.0}"),
        size if size >= 10.0 => format!("{value:.1}"),
        size if size >= 1.0 => format!("{value:.2}"),
        size if size >= 0.1 => format!("{value:.3}"),
        _ => format!("{value:.4}"),
    }
}

fn load() -> f64 {
    let text = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split_whitespace()
        .next()
        .and_then(|word| word.parse().ok())
        .unwrap_or(0.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_shown_with_range_and_ratio() {
        assert_eq!(
            shown(&[1.0, 2.0, 4.0], Some(&[4.0])),
            "2.00 [1.00-4.00] (0.500x)"
        );
        assert_eq!(shown(&[20_500_000.0], None), "20.5M");
        assert_eq!(number(0.0), "0");
    }
}
