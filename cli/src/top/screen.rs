//! What it looks like.

use ratatui::Frame;
use ratatui::layout::{Constraint, Layout};
use ratatui::style::{Color, Style, Stylize as _};
use ratatui::text::{Line, Span};
use ratatui::widgets::{Cell, Row, Table};

use super::view::{DeviceView, DomainView, Times, View};

/// Heads and widths of the columns of domains.
const DOMAINS: [(&str, u16); 6] = [
    ("ID", 5),
    ("DOMAIN", 16),
    ("KIND", 14),
    ("PID", 8),
    ("CPU %", 7),
    ("RESTARTS", 8),
];

/// Of disks.
const DEVICES: [(&str, u16); 15] = [
    ("DISK", 7),
    ("GUEST", 12),
    ("BACKEND", 12),
    ("STATE", 5),
    ("RINGS", 5),
    ("OPEN", 5),
    ("READ/S", 9),
    ("WRITE/S", 9),
    ("READ MB/S", 9),
    ("WRITE MB/S", 10),
    ("READ us", 11),
    ("WRITE us", 11),
    ("BELLS/REQ", 9),
    ("ERRORS", 8),
    ("RESTARTS", 8),
];

fn domain(view: &DomainView) -> [String; DOMAINS.len()] {
    let now = &view.now;
    let pid = now.pid.map_or_else(|| "-".into(), |pid| pid.to_string());
    [
        now.domid.to_string(),
        now.name.clone(),
        now.kind.clone(),
        pid,
        number(view.processors.map(|used| used * 100.0)),
        now.restarts.to_string(),
    ]
}

fn device(view: &DeviceView) -> [String; DEVICES.len()] {
    let now = &view.now;
    let rate = |name: &str| view.rates.get(name).copied();
    let megabytes = |name: &str| rate(name).map(|bytes| bytes / 1e6);
    let bells = rate("notifications_sent").zip(rate("requests").filter(|rate| *rate > 0.0));
    let errors = ["errors", "unsupported"]
        .iter()
        .filter_map(|name| now.counters.get(*name));
    [
        now.dev.clone(),
        view.guest_name.clone(),
        view.backend_name.clone(),
        format!("{}/{}", now.frontend_state, now.backend_state),
        now.rings.len().to_string(),
        now.rings
            .iter()
            .map(|ring| ring.in_flight)
            .sum::<u64>()
            .to_string(),
        number(rate("reads")),
        number(rate("writes")),
        number(megabytes("read_bytes")),
        number(megabytes("write_bytes")),
        times(view.read_latency),
        times(view.write_latency),
        bells.map_or_else(|| "-".into(), |(bells, all)| format!("{:.2}", bells / all)),
        errors.sum::<u64>().to_string(),
        view.restarts.to_string(),
    ]
}

/// Half of them, and 99 of 100.
fn times(times: Option<Times>) -> String {
    times.map_or_else(
        || "-".into(),
        |times| format!("{:.0}/{:.0}", times.p50, times.p99),
    )
}

/// Three digits of what is small, all of what is large.
fn number(value: Option<f64>) -> String {
    match value {
        None => "-".into(),
        Some(0.0) => "0".into(),
        Some(value) if value < 10.0 => format!("{value:.2}"),
        Some(value) if value < 100.0 => format!("{value:.1}"),
        Some(value) => format!("{value:.0}"),
    }
}

/// Draws everything; of the disks those from number `first` on.
pub(super) fn draw(frame: &mut Frame<'_>, view: &View, first: usize) {
    let domains = u16::try_from(view.domains.len()).unwrap_or(u16::MAX);
    // A third of the screen at most, so that there is room for disks.
    let room = domains
        .saturating_add(2)
        .min((frame.area().height / 3).max(3));
    let parts = [
        Constraint::Length(1),
        Constraint::Length(room),
        Constraint::Min(3),
        Constraint::Length(1),
    ];
    let [title, top, middle, bottom] = Layout::vertical(parts).areas(frame.area());
    let totals = total(view);
    frame.render_widget(
        Line::from(vec![Span::from("ringfence ").bold(), totals.into()]),
        title,
    );
    frame.render_widget(
        table(&DOMAINS, view.domains.iter().map(domain), |_| None),
        top,
    );
    let shown = view.devices.get(first..).unwrap_or_default();
    let colour = |row: usize| match shown.get(row).map(|device| &device.now) {
        Some(now) if (now.frontend_state, now.backend_state) != (4, 4) => Some(Color::Yellow),
        _ => None,
    };
    frame.render_widget(table(&DEVICES, shown.iter().map(device), colour), middle);
    frame.render_widget(Line::from("q quit  up/down scroll").dim(), bottom);
}

fn total(view: &View) -> String {
    let sum = |name: &str| -> f64 {
        let rates = view.devices.iter();
        rates.filter_map(|device| device.rates.get(name)).sum()
    };
    format!(
        "{} domains, {} disks: {} reads/s, {} writes/s, {} MB/s",
        view.domains.len(),
        view.devices.len(),
        number(Some(sum("reads"))),
        number(Some(sum("writes"))),
        number(Some((sum("read_bytes") + sum("write_bytes")) / 1e6)),
    )
}

fn table<const N: usize>(
    columns: &[(&'static str, u16); N],
    rows: impl Iterator<Item = [String; N]>,
    colour: impl Fn(usize) -> Option<Color>,
) -> Table<'static> {
    let head = Row::new(columns.map(|(name, _)| Cell::from(name))).style(Style::new().reversed());
    let rows = rows.enumerate().map(|(number, cells)| {
        let row = Row::new(cells.map(Cell::from));
        match colour(number) {
            Some(colour) => row.style(Style::new().fg(colour)),
            None => row,
        }
    });
    Table::new(rows, columns.map(|(_, width)| Constraint::Length(width))).header(head)
}

/// The same as text, for scripts.
pub(super) fn plain(view: &View) -> String {
    let mut text = total(view);
    text.push('\n');
    lines(&mut text, &DOMAINS, view.domains.iter().map(domain));
    lines(&mut text, &DEVICES, view.devices.iter().map(device));
    text
}

fn lines<const N: usize>(
    text: &mut String,
    columns: &[(&'static str, u16); N],
    rows: impl Iterator<Item = [String; N]>,
) {
    let head = columns.map(|(name, _)| name.to_owned());
    for cells in std::iter::once(head).chain(rows) {
        let mut line = String::new();
        for (cell, (_, width)) in cells.iter().zip(columns) {
            line.push_str(&format!("{cell:<width$} ", width = usize::from(*width)));
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
}
