//! Line plots as inline SVG: axes, grid, one or more lines. Never knows what is plotted.

use std::fmt::Write;

const WIDTH: f64 = 860.0;
const HEIGHT: f64 = 280.0;
const LEFT: f64 = 80.0;
const RIGHT: f64 = 20.0;
const TOP: f64 = 16.0;
const BOTTOM: f64 = 40.0;
/// Points of a line that say their value under a pointer.
const HOVERS_MAX: usize = 200;
/// Told apart also by people who do not tell red from green.
const COLORS: [&str; 3] = ["#0072b2", "#d55e00", "#009e73"];

/// One line of a plot.
pub struct Line<'a> {
    pub name: &'a str,
    pub points: Vec<(f64, f64)>,
}

/// Marks on an axis: where, and what they say.
pub type Marks = Vec<(f64, String)>;

/// A plot of `lines` between the marks' ends. `said` is what a point says under a pointer.
pub fn plot(title: &str, lines: &[Line<'_>], across: &Marks, up: &Marks, said: &dyn Fn(f64, f64) -> String) -> String {
    let span = |marks: &Marks| (marks.first().map_or(0.0, |mark| mark.0), marks.last().map_or(1.0, |mark| mark.0));
    let ((x0, x1), (y0, y1)) = (span(across), span(up));
    let x = |value: f64| LEFT + (value - x0) / (x1 - x0).max(1e-12) * (WIDTH - LEFT - RIGHT);
    let y = |value: f64| HEIGHT - BOTTOM - (value - y0) / (y1 - y0).max(1e-12) * (HEIGHT - TOP - BOTTOM);
    let mut svg = format!(r#"<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{title}">"#);
    for (value, text) in up {
        let at = y(*value);
        let _ = write!(svg, r#"<line class="grid" x1="{LEFT}" x2="{}" y1="{at:.1}" y2="{at:.1}"/>"#, WIDTH - RIGHT);
        let _ = write!(svg, r#"<text x="{}" y="{:.1}" text-anchor="end">{text}</text>"#, LEFT - 8.0, at + 4.0);
    }
    for (value, text) in across {
        let at = x(*value);
        let bottom = HEIGHT - BOTTOM;
        let _ = write!(svg, r#"<line class="grid" x1="{at:.1}" x2="{at:.1}" y1="{TOP}" y2="{bottom}"/>"#);
        let _ = write!(svg, r#"<text x="{at:.1}" y="{}" text-anchor="middle">{text}</text>"#, bottom + 18.0);
    }
    for (line, color) in lines.iter().zip(COLORS.iter().cycle()) {
        let points: Vec<String> = line.points.iter().map(|(px, py)| format!("{:.1},{:.1}", x(*px), y(*py))).collect();
        for (px, py) in line.points.iter().step_by(line.points.len().div_ceil(HOVERS_MAX).max(1)) {
            let (down, right) = (y(*py), x(*px));
            let text = format!("{} {}", line.name, said(*px, *py));
            let circle = r#"<circle r="7" fill="currentColor" fill-opacity="0""#;
            let _ = write!(svg, r#"{circle} cx="{right:.1}" cy="{down:.1}"><title>{}</title></circle>"#, text.trim());
        }
        let points = points.join(" ");
        let _ = write!(svg, r#"<polyline fill="none" stroke="{color}" stroke-width="2" points="{points}"/>"#);
    }
    svg.push_str("</svg>");
    let mut legend = String::new();
    for (line, color) in lines.iter().zip(COLORS.iter().cycle()) {
        if line.name.is_empty() {
            continue;
        }
        let _ = write!(legend, r#"<span style="color:{color}">&#9632;</span> {} "#, line.name);
    }
    format!("<figure><figcaption><b>{title}</b> {legend}</figcaption>{svg}</figure>")
}

/// About five round marks from 0 to at least `most`.
pub fn round_marks(most: f64, name: impl Fn(f64) -> String) -> Marks {
    let most = if most > 0.0 { most } else { 1.0 };
    let rough = most / 5.0;
    let power = 10f64.powf(rough.log10().floor());
    let step = [1.0, 2.0, 5.0, 10.0].map(|factor| factor * power).into_iter().find(|step| *step >= rough);
    let step = step.unwrap_or(rough);
    let last = (most / step).ceil() as u32;
    (0..=last).map(|number| (f64::from(number) * step, name(f64::from(number) * step))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marks_are_round_and_enough() {
        let marks = round_marks(7.3, |value| format!("{value}"));
        assert_eq!(marks.iter().map(|mark| mark.1.as_str()).collect::<Vec<_>>(), ["0", "2", "4", "6", "8"]);
        assert_eq!(round_marks(0.0, |_| String::new()).last().map(|mark| mark.0), Some(1.0));
        assert!(round_marks(123_456.0, |_| String::new()).last().is_some_and(|mark| mark.0 >= 123_456.0));
    }

    #[test]
    fn a_plot_is_svg() {
        let line = Line { name: "l", points: vec![(0.0, 0.0), (1.0, 1.0)] };
        let marks = round_marks(1.0, |value| format!("{value:.1}"));
        let text = plot("t", &[line], &marks, &marks, &|x, y| format!("{y} at {x}"));
        assert!(text.contains("<polyline") && text.ends_with("</svg></figure>"));
        assert!(text.contains("80.0,240.0 840.0,16.0"), "{text}");
        assert!(text.contains("<title>l 1 at 1</title>"), "{text}");
    }
}
