//! A run as a page: text, tables and curves in one HTML file that needs nothing else, no script and no network.
//!
//! ```text
//! let mut page = Page::new("Load");
//! page.text("Three times the peak.");
//! page.table(&["phase", "p99 ms"], rows);
//! page.chart(&Chart::new("latency", "ms").curve("p99", points).limit("goal", 50.0))?;
//! page.write(folder)?; // index.html, latency.svg
//! ```

mod chart;
mod page;

pub use chart::Chart;
pub use page::{Cell, Page};
