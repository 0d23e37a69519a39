//! One HTML file, and the pictures beside it once more, for whoever wants them alone.

use std::{
    fmt::Write as _,
    fs,
    path::{Path, PathBuf},
};

use anyhow::Context;

use super::Chart;

const HEAD: &str = "\
<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n";
const STYLE: &str = "\
body { font: 15px/1.5 system-ui, sans-serif; color: #1b1b1b; background: #fff; max-width: 940px; margin: 2rem auto; \
padding: 0 1rem }\n\
h1 { font-size: 1.6rem } h2 { font-size: 1.15rem; margin-top: 2rem }\n\
table { border-collapse: collapse; margin: 1rem 0; font-variant-numeric: tabular-nums }\n\
th, td { padding: .25rem .8rem; border-bottom: 1px solid #ddd; text-align: right } \
th:first-child, td:first-child { text-align: left }\n\
.good { color: #176b2c } .bad { color: #b00020; font-weight: 600 }\n\
pre { background: #f5f5f5; padding: .6rem .8rem; overflow-x: auto } svg { max-width: 100%; height: auto }\n";

/// What stands in a table, and what is to be thought of it.
#[derive(Clone, Debug)]
pub enum Cell {
    Plain(String),
    Good(String),
    Bad(String),
}

impl Cell {
    /// Good or bad, as it was judged.
    pub fn judged(text: impl Into<String>, good: bool) -> Self {
        match good {
            true => Self::Good(text.into()),
            false => Self::Bad(text.into()),
        }
    }
}

impl<T: Into<String>> From<T> for Cell {
    fn from(text: T) -> Self {
        Self::Plain(text.into())
    }
}

/// Grows from top to bottom. Whatever is given as text is escaped.
pub struct Page {
    title: String,
    body: String,
    pictures: Vec<(String, String)>,
}

impl Page {
    pub fn new(title: impl Into<String>) -> Self {
        Self {
            title: title.into(),
            body: String::new(),
            pictures: Vec::new(),
        }
    }

    pub fn heading(&mut self, text: &str) {
        self.element("h2", text);
    }

    /// One paragraph.
    pub fn text(&mut self, text: &str) {
        self.element("p", text);
    }

    /// As it stands: a command, a file.
    pub fn verbatim(&mut self, text: &str) {
        self.element("pre", text);
    }

    pub fn table(&mut self, columns: &[&str], rows: impl IntoIterator<Item = Vec<Cell>>) {
        let heads: String = columns
            .iter()
            .map(|name| format!("<th>{}</th>", escaped(name)))
            .collect();
        let _ = write!(self.body, "<table>\n<tr>{heads}</tr>\n");
        for row in rows {
            let cells: String = row.iter().map(cell).collect();
            let _ = writeln!(self.body, "<tr>{cells}</tr>");
        }
        self.body.push_str("</table>\n");
    }

    /// # Errors
    /// It cannot be drawn.
    pub fn chart(&mut self, chart: &Chart) -> anyhow::Result<()> {
        let svg = chart.svg()?;
        let _ = writeln!(self.body, "<figure>\n{svg}\n</figure>");
        self.pictures.push((chart.stem(), svg));
        Ok(())
    }

    pub fn html(&self) -> String {
        let title = escaped(&self.title);
        format!(
            "{HEAD}<title>{title}</title>\n<style>\n{STYLE}</style>\n</head>\n<body>\n<h1>{title}</h1>\n{}</body>\n</html>\n",
            self.body
        )
    }

    /// Writes `index.html` and `TITLE.svg` of each chart into a folder, which is made. Gives the page's path.
    ///
    /// # Errors
    /// The folder or a file cannot be written.
    pub fn write(&self, folder: &Path) -> anyhow::Result<PathBuf> {
        fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
        let page = ("index.html".to_owned(), self.html());
        let pictures = self
            .pictures
            .iter()
            .map(|(stem, svg)| (format!("{stem}.svg"), svg.clone()));
        for (name, text) in pictures.chain([page]) {
            let path = folder.join(name);
            fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
        }
        Ok(folder.join("index.html"))
    }

    fn element(&mut self, name: &str, text: &str) {
        let _ = writeln!(self.body, "<{name}>{}</{name}>", escaped(text));
    }
}

fn cell(cell: &Cell) -> String {
    match cell {
        Cell::Plain(text) => format!("<td>{}</td>", escaped(text)),
        Cell::Good(text) => format!("<td class=\"good\">{}</td>", escaped(text)),
        Cell::Bad(text) => format!("<td class=\"bad\">{}</td>", escaped(text)),
    }
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
        .replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_is_one_file_that_needs_nothing_else() {
        let mut page = Page::new("Load & peak");
        page.heading("Phases");
        page.text("errors < 2 %");
        page.verbatim("cargo xtask load --report <DIR>");
        page.table(
            &["phase", "p99 ms"],
            [vec![
                Cell::from("peak <b>"),
                Cell::judged("51.0", false),
                Cell::judged("0.1", true),
            ]],
        );
        let chart = Chart::new("latency", "ms").curve("p99", [(0.0, 1.0), (1.0, 2.0)]);
        page.chart(&chart).expect("it can be drawn");
        let folder = tempfile::tempdir().expect("a folder");
        let path = page.write(&folder.path().join("a/b")).expect("it can be written");
        let html = fs::read_to_string(&path).expect("it is there");
        for part in [
            "<title>Load &amp; peak</title>",
            "errors &lt; 2 %",
            "<td>peak &lt;b&gt;</td>",
            "class=\"bad\">51.0",
            "class=\"good\">0.1",
            "<svg",
        ] {
            assert!(html.contains(part), "{part} in {html}");
        }
        for foreign in ["<script", "src=", "href=", "<b>"] {
            assert!(!html.contains(foreign), "{foreign} in {html}");
        }
        assert!(path.with_file_name("latency.svg").is_file());
    }
}
