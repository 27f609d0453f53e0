//! `ringfence top`: who does how much, and how fast, now.
//!
//! A [`Source`] is looked at once per interval; what is shown is the difference of two looks ([`View`]).

mod looks;
pub mod sample;
mod screen;
#[cfg(test)]
mod tests;
pub mod view;

pub use looks::{Hosted, Xen};
pub use sample::{Device, Domain, Sample};
pub use view::View;

use std::io::IsTerminal as _;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use ratatui::crossterm::event::{self, Event, KeyCode, KeyEventKind, KeyModifiers};

/// `top`
#[derive(Clone, Debug, clap::Args)]
pub struct Options {
    /// Look for one interval, print, and exit
    #[arg(long)]
    pub once: bool,
    /// One JSON object instead of a table
    #[arg(long, requires = "once")]
    pub json: bool,
    /// Seconds between two looks, 0.1 to 60
    #[arg(long, value_name = "SECONDS", default_value = "1", value_parser = interval)]
    pub interval: Duration,
}

fn interval(text: &str) -> Result<Duration, String> {
    let seconds: f64 = text.parse().map_err(|_| "not a number".to_owned())?;
    if (0.1..=60.0).contains(&seconds) {
        return Ok(Duration::from_secs_f64(seconds));
    }
    Err("not from 0.1 to 60".into())
}

/// What can be looked at.
pub trait Source {
    /// How things are now.
    ///
    /// # Errors
    /// Nobody answers any more.
    fn look(&mut self) -> Result<Sample>;
}

/// Runs until it is told to end, or once.
///
/// # Errors
/// Those of the source, or of the terminal.
pub fn run(source: &mut impl Source, options: &Options) -> Result<()> {
    if options.once {
        let before = timed(source)?;
        std::thread::sleep(options.interval);
        let view = view(&before, source)?.0;
        if options.json {
            crate::say(&serde_json::to_value(&view)?);
        } else {
            print!("{}", screen::plain(&view));
        }
        return Ok(());
    }
    ensure!(
        std::io::stdout().is_terminal(),
        "top needs a terminal; without one use --once"
    );
    let mut terminal = ratatui::try_init().context("the terminal")?;
    let result = watch(&mut terminal, source, options.interval);
    ratatui::restore();
    result
}

/// A look and its time.
type Timed = (Instant, Sample);

fn timed(source: &mut impl Source) -> Result<Timed> {
    Ok((Instant::now(), source.look()?))
}

/// Looks once more: what changed since then.
fn view(before: &Timed, source: &mut impl Source) -> Result<(View, Timed)> {
    let now = timed(source)?;
    let view = View::between(&before.1, &now.1, now.0.duration_since(before.0));
    Ok((view, now))
}

fn watch(
    terminal: &mut ratatui::DefaultTerminal,
    source: &mut impl Source,
    interval: Duration,
) -> Result<()> {
    let mut before = timed(source)?;
    let mut shown = View::between(&before.1, &before.1, Duration::ZERO);
    let mut first = 0_usize;
    loop {
        terminal.draw(|frame| screen::draw(frame, &shown, first))?;
        let left = interval.saturating_sub(before.0.elapsed());
        if !event::poll(left)? {
            (shown, before) = view(&before, source)?;
            continue;
        }
        let Event::Key(key) = event::read()? else {
            // The window has another size, or so.
            continue;
        };
        let control = key.modifiers.contains(KeyModifiers::CONTROL);
        match key.code {
            _ if key.kind != KeyEventKind::Press => {}
            KeyCode::Char('q') | KeyCode::Esc => return Ok(()),
            KeyCode::Char('c') if control => return Ok(()),
            KeyCode::Down | KeyCode::Char('j') => {
                first = first
                    .saturating_add(1)
                    .min(shown.devices.len().saturating_sub(1));
            }
            KeyCode::Up | KeyCode::Char('k') => first = first.saturating_sub(1),
            _ => {}
        }
    }
}
