//! The helpfulness-safety plane: one point per method with the whiskers of its intervals, as static SVG with a
//! layer of buttons above it that carry the tooltips (they work by hover and focus, without script).

use super::Estimate;
use super::data::{ReportData, Scores};
use super::escape::html;
use super::scale::Scale;
use super::style::{colour, landmark, marker};
use super::tables::COLUMNS;
use std::fmt::Write;

const WIDTH: f64 = 760.0;
const HEIGHT: f64 = 460.0;
const LEFT: f64 = 58.0;
const RIGHT: f64 = 742.0;
const TOP: f64 = 18.0;
const BOTTOM: f64 = 408.0;

struct Point<'a> {
    /// Index of the method; none for a landmark.
    method: Option<usize>,
    name: &'a str,
    description: &'a str,
    scores: &'a Scores,
    reward: Estimate,
    safe: Estimate,
}

/// The plane with its data table; empty where fewer than two points are known.
pub(crate) fn plane(data: &ReportData) -> String {
    let points = points(data);
    if points.len() < 2 {
        return String::new();
    }
    let x = axis(points.iter().map(|p| p.safe), (LEFT, RIGHT)).within(0.0, 1.02);
    let y = axis(points.iter().map(|p| p.reward), (BOTTOM, TOP));
    let mut svg = format!(
        "<svg class=\"plot\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\" aria-labelledby=\"plane-title plane-desc\">\
         <title id=\"plane-title\">Helpfulness and safety of each method</title><desc id=\"plane-desc\">{}</desc>",
        html(&describe(&points))
    );
    axes(&mut svg, &x, &y);
    let mut taken: Vec<Rect> = Vec::new();
    for p in &points {
        taken.push(Rect::around(x.position(p.safe.mean), y.position(p.reward.mean), 8.0));
    }
    for p in &points {
        draw(&mut svg, p, &x, &y);
    }
    for p in &points {
        label(&mut svg, p, (x.position(p.safe.mean), y.position(p.reward.mean)), &mut taken);
    }
    svg.push_str("</svg>");
    let mut hits = String::new();
    for p in &points {
        hits.push_str(&hit(p, x.position(p.safe.mean), y.position(p.reward.mean)));
    }
    format!(
        "<figure class=\"wide\" id=\"plane\"><div class=\"frame\">{svg}<div class=\"hits\">{hits}</div></div>\
         <details class=\"data\"><summary>Data of this plot</summary>{}</details></figure>",
        table(&points)
    )
}

fn points(data: &ReportData) -> Vec<Point<'_>> {
    let methods =
        data.methods.iter().enumerate().filter_map(|(i, m)| {
            Some((Some(i), m.name.as_str(), m.description.as_str(), m.scores.as_ref()?))
        });
    let landmarks = data.landmarks.iter().map(|l| (None, l.name.as_str(), l.description.as_str(), &l.scores));
    landmarks
        .chain(methods)
        .filter_map(|(method, name, description, scores)| {
            let (reward, safe) = (scores.reward?, scores.safe_rate?);
            let known = reward.mean.is_finite() && safe.mean.is_finite();
            known.then_some(Point { method, name, description, scores, reward, safe })
        })
        .collect()
}

/// Holds all means; whiskers count only up to the span of the means, so that one wide interval (few seeds) does not
/// press every point together. What is cut has no end cap.
fn axis(values: impl Iterator<Item = Estimate> + Clone, positions: (f64, f64)) -> Scale {
    let (low, high) = values.clone().fold((f64::MAX, f64::MIN), |(l, h), e| (l.min(e.mean), h.max(e.mean)));
    let span = (high - low).max(0.02);
    let (mut from, mut to) = (low, high);
    for (l, h) in values.filter_map(|e| e.interval()) {
        from = from.min(l.max(low - span * 0.5));
        to = to.max(h.min(high + span * 0.5));
    }
    let room = (to - from).max(0.02) * 0.08;
    Scale::linear(from - room, to + room, positions)
}

fn axes(svg: &mut String, x: &Scale, y: &Scale) {
    for tick in x.ticks(7) {
        let at = x.position(tick);
        let _ = write!(
            svg,
            "<line class=\"grid\" x1=\"{at:.1}\" y1=\"{TOP}\" x2=\"{at:.1}\" y2=\"{BOTTOM}\"/>\
             <text class=\"tick\" x=\"{at:.1}\" y=\"{}\" text-anchor=\"middle\">{} %</text>",
            BOTTOM + 20.0,
            short(tick * 100.0)
        );
    }
    for tick in y.ticks(6) {
        let at = y.position(tick);
        let _ = write!(
            svg,
            "<line class=\"grid\" x1=\"{LEFT}\" y1=\"{at:.1}\" x2=\"{RIGHT}\" y2=\"{at:.1}\"/>\
             <text class=\"tick\" x=\"{}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>",
            LEFT - 8.0,
            at + 4.0,
            short(tick)
        );
    }
    let _ = write!(
        svg,
        "<text class=\"name\" x=\"{}\" y=\"{}\" text-anchor=\"middle\">Safe rate</text>\
         <text class=\"name\" transform=\"translate(14 {}) rotate(-90)\" text-anchor=\"middle\">Mean reward</text>\
         <text class=\"hint\" x=\"{}\" y=\"{}\" text-anchor=\"end\">safer and more helpful ↗</text>",
        (LEFT + RIGHT) / 2.0,
        HEIGHT - 8.0,
        (TOP + BOTTOM) / 2.0,
        RIGHT - 4.0,
        TOP + 14.0
    );
}

/// A tick's value without noise digits.
pub(crate) fn short(value: f64) -> String {
    let size = value.abs();
    if size != 0.0 && !(1e-4..1e5).contains(&size) {
        return super::format::minus(&format!("{value:.0e}"));
    }
    let text = format!("{value:.4}");
    super::format::minus(text.trim_end_matches('0').trim_end_matches('.'))
}

fn draw(svg: &mut String, p: &Point, x: &Scale, y: &Scale) {
    let (cx, cy) = (x.position(p.safe.mean), y.position(p.reward.mean));
    match p.method {
        Some(m) => {
            let _ = write!(svg, "<g class=\"{}\" data-m=\"{m}\">", colour(m));
        }
        None => svg.push_str("<g class=\"lm\">"),
    }
    let mut line = |x1: f64, y1: f64, x2: f64, y2: f64| {
        let _ = write!(
            svg,
            "<line class=\"whisker\" x1=\"{x1:.1}\" y1=\"{y1:.1}\" x2=\"{x2:.1}\" y2=\"{y2:.1}\"/>"
        );
    };
    if let Some((low, high)) = p.safe.interval() {
        line(x.position(low), cy, x.position(high), cy);
        for end in [low, high].into_iter().filter(|v| x.contains(*v)) {
            line(x.position(end), cy - 4.0, x.position(end), cy + 4.0);
        }
    }
    if let Some((low, high)) = p.reward.interval() {
        line(cx, y.position(low), cx, y.position(high));
        for end in [low, high].into_iter().filter(|v| y.contains(*v)) {
            line(cx - 4.0, y.position(end), cx + 4.0, y.position(end));
        }
    }
    svg.push_str(&match p.method {
        Some(m) => marker(m, cx, cy, 6.5),
        None => landmark(cx, cy, 7.0),
    });
    svg.push_str("</g>");
}

#[derive(Clone, Copy)]
struct Rect {
    x: f64,
    y: f64,
    w: f64,
    h: f64,
}

impl Rect {
    fn around(x: f64, y: f64, r: f64) -> Self {
        Self { x: x - r, y: y - r, w: 2.0 * r, h: 2.0 * r }
    }

    fn meets(&self, o: &Self) -> bool {
        self.x < o.x + o.w && o.x < self.x + self.w && self.y < o.y + o.h && o.y < self.y + self.h
    }
}

/// Writes the name beside its point where it meets nothing; where there is no such place, legend and tooltip tell.
fn label(svg: &mut String, p: &Point, (x, y): (f64, f64), taken: &mut Vec<Rect>) {
    let shown: String = if p.name.chars().count() > 28 {
        p.name.chars().take(27).chain(['…']).collect()
    } else {
        p.name.to_owned()
    };
    let w = shown.chars().count() as f64 * 7.0 + 2.0;
    let places = [
        (x + 12.0, y - 14.0),
        (x - 12.0 - w, y - 14.0),
        (x + 12.0, y + 1.0),
        (x - 12.0 - w, y + 1.0),
        (x - w / 2.0, y - 26.0),
        (x - w / 2.0, y + 11.0),
        (x + 12.0, y - 28.0),
        (x - 12.0 - w, y + 15.0),
    ];
    let free = places.iter().map(|(x, y)| Rect { x: *x, y: *y, w, h: 15.0 }).find(|r| {
        let inside = r.x >= LEFT && r.x + r.w <= RIGHT && r.y >= TOP && r.y + r.h <= BOTTOM;
        inside && !taken.iter().any(|t| t.meets(r))
    });
    if let Some(place) = free {
        let attribute = p.method.map_or(String::new(), |m| format!(" data-m=\"{m}\""));
        let class = p.method.map_or("lm".to_owned(), colour);
        let _ = write!(
            svg,
            "<text class=\"label {class}\"{attribute} x=\"{:.1}\" y=\"{:.1}\">{}</text>",
            place.x + 1.0,
            place.y + 12.0,
            html(&shown)
        );
        taken.push(place);
    }
}

fn hit(p: &Point, x: f64, y: f64) -> String {
    let side = match (x > WIDTH * 0.5, y > HEIGHT * 0.5) {
        (true, true) => "left up",
        (true, false) => "left",
        (false, true) => "up",
        (false, false) => "",
    };
    let mut said = p.name.to_owned();
    let mut tip = format!("<b>{}</b>", html(p.name));
    if !p.description.is_empty() {
        let _ = write!(tip, "<i>{}</i>", html(p.description));
    }
    for column in &COLUMNS {
        if let Some(e) = (column.of)(p.scores).filter(|e| e.mean.is_finite()) {
            let value = column.say(&e);
            let _ = write!(tip, "<span><span>{}</span><span>{value}</span></span>", column.title);
            let _ = write!(said, "; {} {value}", column.title);
        }
    }
    let attribute = p.method.map_or(String::new(), |m| format!(" data-m=\"{m}\""));
    let class = p.method.map_or("lm".to_owned(), colour);
    format!(
        "<button type=\"button\" class=\"hit {class} {side}\"{attribute} style=\"left:{:.2}%;top:{:.2}%\" aria-label=\"{}\">\
         <span class=\"tip\" aria-hidden=\"true\">{tip}</span></button>",
        x / WIDTH * 100.0,
        y / HEIGHT * 100.0,
        html(&said)
    )
}

fn describe(points: &[Point]) -> String {
    let mut out =
        String::from("Scatter plot; safe rate to the right, mean reward upwards, with 95 % intervals. ");
    for p in points {
        let _ = write!(
            out,
            "{}: safe {}, reward {}. ",
            p.name,
            COLUMNS[1].show(p.safe.mean),
            COLUMNS[0].show(p.reward.mean)
        );
    }
    out
}

fn table(points: &[Point]) -> String {
    let mut out = String::from(
        "<div class=\"scroll\"><table><thead><tr><th scope=\"col\">Point</th><th scope=\"col\">Mean reward (95 % \
         interval)</th><th scope=\"col\">Safe rate (95 % interval)</th></tr></thead><tbody>",
    );
    for p in points {
        let _ = write!(
            out,
            "<tr><th scope=\"row\">{}</th><td>{}</td><td>{}</td></tr>",
            html(p.name),
            COLUMNS[0].say(&p.reward),
            COLUMNS[1].say(&p.safe)
        );
    }
    out.push_str("</tbody></table></div>");
    out
}
