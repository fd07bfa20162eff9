//! Plots as SVG files: panels of horizontal bars, two beside each other. Never knows what is plotted.
//!
//! The same input gives the same bytes. Text is text, in the reader's own sans-serif; colours follow the reader's light
//! or dark scheme, on a ground of their own.

use std::fmt::Write;

const WIDTH: f64 = 860.0;
const MARGIN: f64 = 20.0;
/// A panel, and within it what is left of the bars and right of them.
const PANEL: f64 = 400.0;
const NAMES: f64 = 138.0;
const FIGURES: f64 = 62.0;
const AREA: f64 = PANEL - NAMES - FIGURES;
const LINE: f64 = 19.0;
const BAR: f64 = 12.0;
/// Above the first panel, above the bars of a panel, and below them.
const HEAD: f64 = 58.0;
const ABOVE: f64 = 26.0;
const BELOW: f64 = 34.0;
const FOOT: f64 = 30.0;

const STYLE: &str = "text{font:12px system-ui,sans-serif;fill:#1f2328}.t{font-size:16px;font-weight:600}.h{font-weight:600}\
.n{font-size:11px;fill:#59636e}.e{text-anchor:end}.m{text-anchor:middle}.g{stroke:#d1d9e0}.k{stroke:#1f2328;stroke-dasharray:3 2}\
.r{stroke:#1f2328;stroke-width:1.5}.p{fill:#fff}.c{stroke:#fff;stroke-width:3}.a{fill:#0072b2}.b{fill:#8c959f}\
@media(prefers-color-scheme:dark){text{fill:#f0f6fc}.n{fill:#9198a1}.g{stroke:#3d444d}.k,.r{stroke:#f0f6fc}.p{fill:#0d1117}\
.c{stroke:#0d1117}.a{fill:#4aa3df}.b{fill:#7d8590}}";

/// A bar, its figure beside it.
pub struct Bar {
    pub name: String,
    pub value: f64,
    pub figure: String,
    /// Least and most, where the value is the median of several.
    pub range: Option<(f64, f64)>,
    /// Drawn so that it stands out.
    pub ours: bool,
}

/// Bars over one axis from 0.
pub struct Panel {
    pub title: String,
    pub bars: Vec<Bar>,
    /// Where the axis ends; a longer bar is cut there, and its figure says how long it is. None: at the longest.
    pub end: Option<f64>,
    /// A value to compare with.
    pub line: Option<f64>,
}

/// A file.
pub struct Sheet {
    pub title: String,
    /// Units, and what is good.
    pub unit: String,
    /// Where the figures come from.
    pub source: String,
    pub panels: Vec<Panel>,
}

impl Panel {
    fn height(&self) -> f64 {
        ABOVE + self.bars.len() as f64 * LINE + BELOW
    }

    fn marks(&self) -> Vec<f64> {
        let longest = self.bars.iter().map(|bar| bar.value).fold(0.0, f64::max);
        round_marks(self.end.unwrap_or(longest))
    }
}

/// The file's text.
pub fn draw(sheet: &Sheet) -> String {
    let heights: Vec<f64> =
        sheet.panels.chunks(2).map(|pair| pair.iter().map(Panel::height).fold(0.0, f64::max)).collect();
    let height = HEAD + heights.iter().sum::<f64>() + FOOT;
    let mut svg = format!(
        r#"<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}" role="img">"#
    );
    let title = escaped(&sheet.title);
    let _ = write!(svg, "\n<title>{title}</title>\n<style>{STYLE}</style>\n");
    let _ = writeln!(svg, r#"<rect class="p" width="{WIDTH}" height="{height}" rx="6"/>"#);
    let _ = writeln!(svg, r#"<text class="t" x="{MARGIN}" y="28">{title}</text>"#);
    let _ = writeln!(svg, r#"<text class="n" x="{MARGIN}" y="46">{}</text>"#, escaped(&sheet.unit));
    let mut y = HEAD;
    for (pair, height) in sheet.panels.chunks(2).zip(heights) {
        for (column, panel) in pair.iter().enumerate() {
            draw_panel(&mut svg, panel, MARGIN + column as f64 * (PANEL + MARGIN), y);
        }
        y += height;
    }
    let _ = writeln!(svg, r#"<text class="n" x="{MARGIN}" y="{}">{}</text>"#, y + 14.0, escaped(&sheet.source));
    svg.push_str("</svg>\n");
    svg
}

fn draw_panel(svg: &mut String, panel: &Panel, x: f64, y: f64) {
    let marks = panel.marks();
    let end = marks.last().copied().unwrap_or(1.0);
    let (left, top) = (x + NAMES, y + ABOVE);
    let at = |value: f64| left + (value / end).clamp(0.0, 1.0) * AREA;
    let bottom = top + panel.bars.len() as f64 * LINE;
    let _ = writeln!(svg, r#"<text class="h" x="{x}" y="{}">{}</text>"#, y + 16.0, escaped(&panel.title));
    for mark in &marks {
        let x = at(*mark);
        let _ = write!(svg, r#"<line class="g" x1="{x:.1}" x2="{x:.1}" y1="{top}" y2="{bottom}"/>"#);
        let _ = writeln!(svg, r#"<text class="n m" x="{x:.1}" y="{}">{}</text>"#, bottom + 14.0, mark_name(*mark));
    }
    for (line, bar) in panel.bars.iter().enumerate() {
        draw_bar(svg, bar, x, top + line as f64 * LINE, &at, end);
    }
    if let Some(value) = panel.line.filter(|value| *value <= end) {
        let x = at(value);
        let _ = writeln!(svg, r#"<line class="k" x1="{x:.1}" x2="{x:.1}" y1="{top}" y2="{bottom}"/>"#);
    }
}

fn draw_bar(svg: &mut String, bar: &Bar, x: f64, y: f64, at: &impl Fn(f64) -> f64, end: f64) {
    let (left, right, middle) = (x + NAMES, at(bar.value), y + LINE / 2.0);
    let class = if bar.ours { "a" } else { "b" };
    let _ = write!(svg, r#"<text class="e" x="{}" y="{}">{}</text>"#, left - 8.0, middle + 4.0, escaped(&bar.name));
    let _ = write!(
        svg,
        r#"<rect class="{class}" x="{left}" y="{}" width="{:.1}" height="{BAR}"/>"#,
        middle - BAR / 2.0,
        right - left
    );
    let mut clear = right;
    if bar.value > end {
        let (cut, half) = (right - 16.0, BAR / 2.0 + 1.0);
        let _ = write!(
            svg,
            r#"<line class="c" x1="{:.1}" x2="{:.1}" y1="{}" y2="{}"/>"#,
            cut - 3.0,
            cut + 3.0,
            middle + half,
            middle - half
        );
    } else if let Some((least, most)) = bar.range {
        clear = at(most).max(right);
        let _ =
            write!(svg, r#"<line class="r" x1="{:.1}" x2="{:.1}" y1="{middle}" y2="{middle}"/>"#, at(least), at(most));
    }
    let _ = writeln!(svg, r#"<text x="{:.1}" y="{}">{}</text>"#, clear + 6.0, middle + 4.0, escaped(&bar.figure));
}

/// Three to six marks from 0 to `end` or the next round value behind it.
fn round_marks(end: f64) -> Vec<f64> {
    let end = if end > 0.0 { end } else { 1.0 };
    let rough = end / 4.0;
    let power = 10f64.powf(rough.log10().floor());
    let step = [1.0, 2.0, 5.0].map(|factor| factor * power).into_iter().find(|step| *step >= rough * 0.999);
    let step = step.unwrap_or(10.0 * power);
    // A hair less, so that an end which is round itself is the last mark.
    let count = (end / step - 1e-9).ceil() as u32;
    (0..=count).map(|number| f64::from(number) * step).collect()
}

fn mark_name(value: f64) -> String {
    match value {
        _ if value >= 1e6 => format!("{}M", trimmed(value / 1e6)),
        _ if value >= 1e4 => format!("{}k", trimmed(value / 1e3)),
        _ => trimmed(value),
    }
}

/// Up to three decimals, without zeros at the end.
fn trimmed(value: f64) -> String {
    let text = format!("{value:.3}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bar(name: &str, value: f64) -> Bar {
        Bar { name: name.into(), value, figure: format!("{value:.2}"), range: None, ours: false }
    }

    #[test]
    fn marks_are_round_and_reach_the_end() {
        let names = |end: f64| round_marks(end).into_iter().map(mark_name).collect::<Vec<_>>();
        assert_eq!(names(3.0), ["0", "1", "2", "3"]);
        assert_eq!(names(0.34), ["0", "0.1", "0.2", "0.3", "0.4"]);
        assert_eq!(names(19_142.0), ["0", "5000", "10k", "15k", "20k"]);
        assert_eq!(names(1e6), ["0", "500k", "1M"]);
        assert_eq!(names(0.0).last().map(String::as_str), Some("1"));
    }

    #[test]
    fn a_long_bar_is_cut_and_says_how_long_it_is() {
        let panel =
            Panel { title: "p".into(), bars: vec![bar("a<b", 1.5), bar("c", 67.0)], end: Some(3.0), line: Some(1.0) };
        let sheet = Sheet { title: "t".into(), unit: "u".into(), source: "s".into(), panels: vec![panel] };
        let svg = draw(&sheet);
        assert_eq!(svg.matches(r#"class="c""#).count(), 1, "{svg}");
        assert!(svg.contains(">67.00</text>") && svg.contains("a&lt;b"), "{svg}");
        assert!(svg.contains(r#"width="100.0""#) && svg.contains(r#"width="200.0""#), "{svg}");
        assert_eq!(svg, draw(&sheet));
    }
}
