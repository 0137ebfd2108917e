//! The helpfulness-safety plane: one point per method with the whiskers of its intervals, as static SVG with a
//! layer of buttons above it that carry the tooltips (they work by hover and focus, without script).

use super::Estimate;
use super::data::{Axes, Place, ReportData, Scores};
use super::escape::html;
use super::format::short;
use super::scale::Scale;
use super::style::{Looks, colour, landmark, marker};
use super::tables::{COLUMNS, Unit};
use crate::frontier::{Point, non_dominated};
use std::fmt::Write;

/// Where things stand in a drawing of the plane. There is one for wide and one for narrow pages; the style shows
/// one of them, the other does not exist for readers of any kind.
struct Layout {
    class: &'static str,
    width: f64,
    height: f64,
    left: f64,
    right: f64,
    top: f64,
    bottom: f64,
    /// Widest common width of a label's letter.
    letter: f64,
    /// Ticks of the two axes.
    ticks: (usize, usize),
}

const WIDE: Layout = Layout {
    class: "roomy",
    width: 760.0,
    height: 460.0,
    left: 58.0,
    right: 742.0,
    top: 18.0,
    bottom: 408.0,
    letter: 8.2,
    ticks: (7, 6),
};

const NARROW: Layout = Layout {
    class: "compact",
    width: 400.0,
    height: 400.0,
    left: 54.0,
    right: 390.0,
    top: 14.0,
    bottom: 344.0,
    letter: 9.0,
    ticks: (4, 5),
};

/// A method or a landmark that has a place on the plane.
pub(crate) struct PlanePoint<'a> {
    /// Index of the method; none for a landmark.
    pub(crate) method: Option<usize>,
    pub(crate) name: &'a str,
    description: &'a str,
    scores: &'a Scores,
    pub(crate) place: Place,
    /// Of its family.
    look: usize,
}

impl PlanePoint<'_> {
    fn class(&self) -> String {
        self.method.map_or("lm".to_owned(), |_| colour(self.look))
    }

    fn attribute(&self) -> String {
        self.method.map_or(String::new(), |m| format!(" data-m=\"{m}\""))
    }
}

/// The plane with its data table; empty where fewer than two points are known.
pub(crate) fn plane(data: &ReportData, looks: &Looks) -> String {
    let mut points = points(data);
    if points.len() < 2 {
        return String::new();
    }
    for point in &mut points {
        point.look = point.method.map_or(0, |method| looks.of(method));
    }
    let axes = data.axes.clone().unwrap_or_else(|| Axes {
        helpfulness: COLUMNS[0].title.to_owned(),
        safety: COLUMNS[1].title.to_owned(),
    });
    format!(
        "<figure id=\"plane\">{}{}<details class=\"data\"><summary>Data of this plot</summary>{}</details></figure>",
        WIDE.drawing(&points, &axes),
        NARROW.drawing(&points, &axes),
        table(&points, &axes)
    )
}

impl Layout {
    fn drawing(&self, points: &[PlanePoint], axes: &Axes) -> String {
        let Self { class, width, height, .. } = self;
        let x = axis(points.iter().map(|p| p.place.safety), (self.left, self.right)).within(0.0, 1.02);
        let y = axis(points.iter().map(|p| p.place.helpfulness), (self.bottom, self.top));
        let mut svg = format!(
            "<svg class=\"plot\" viewBox=\"0 0 {width} {height}\" role=\"img\" \
             aria-labelledby=\"{class}-title {class}-desc\"><title id=\"{class}-title\">Helpfulness and safety of each \
             method</title><desc id=\"{class}-desc\">{}</desc>",
            html(&describe(points, axes))
        );
        self.axes(&mut svg, &x, &y, axes);
        let mut taken: Vec<Rect> = points.iter().flat_map(|p| covered(p, &x, &y)).collect();
        taken.push(Rect { x: self.right - 24.0 * self.letter, y: self.top, w: 24.0 * self.letter, h: 20.0 });
        let at = |p: &PlanePoint| (x.position(p.place.safety.mean), y.position(p.place.helpfulness.mean));
        frontiers(&mut svg, points, &x, &y);
        points.iter().for_each(|p| draw(&mut svg, p, &x, &y));
        points.iter().for_each(|p| self.label(&mut svg, p, at(p), &mut taken));
        svg.push_str("</svg>");
        let hits: String = points.iter().map(|p| self.hit(p, at(p), axes)).collect();
        format!("<div class=\"frame {class}\">{svg}<div class=\"hits\">{hits}</div></div>")
    }

    fn axes(&self, svg: &mut String, x: &Scale, y: &Scale, axes: &Axes) {
        let Self { left, right, top, bottom, .. } = self;
        for tick in x.ticks(self.ticks.0) {
            let at = x.position(tick);
            let _ = write!(
                svg,
                "<line class=\"grid\" x1=\"{at:.1}\" y1=\"{top}\" x2=\"{at:.1}\" y2=\"{bottom}\"/>\
                 <text class=\"tick\" x=\"{at:.1}\" y=\"{}\" text-anchor=\"middle\">{} %</text>",
                bottom + 20.0,
                short(tick * 100.0)
            );
        }
        for tick in y.ticks(self.ticks.1) {
            let at = y.position(tick);
            let _ = write!(
                svg,
                "<line class=\"grid\" x1=\"{left}\" y1=\"{at:.1}\" x2=\"{right}\" y2=\"{at:.1}\"/>\
                 <text class=\"tick\" x=\"{}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>",
                left - 8.0,
                at + 4.0,
                short(tick)
            );
        }
        let _ = write!(
            svg,
            "<text class=\"name\" x=\"{}\" y=\"{}\" text-anchor=\"middle\">{}</text>\
             <text class=\"name\" transform=\"translate(14 {}) rotate(-90)\" text-anchor=\"middle\">{}</text>\
             <text class=\"hint\" x=\"{}\" y=\"{}\" text-anchor=\"end\">safer and more helpful ↗</text>",
            (left + right) / 2.0,
            self.height - 8.0,
            html(&axes.safety),
            (top + bottom) / 2.0,
            html(&axes.helpfulness),
            right - 4.0,
            top + 14.0
        );
    }

    /// Writes the name near its point where it meets nothing, with a thin line to the point from farther away; where
    /// there is no such place, legend and tooltip tell.
    fn label(&self, svg: &mut String, p: &PlanePoint, (x, y): (f64, f64), taken: &mut Vec<Rect>) {
        let shown: String = if p.name.chars().count() > 28 {
            p.name.chars().take(27).chain(['…']).collect()
        } else {
            p.name.to_owned()
        };
        // Fonts differ from machine to machine: the widest common one counts.
        let (w, h) = (shown.chars().count() as f64 * self.letter + 4.0, 16.0);
        let Some((place, is_far)) = self.free_place((x, y), (w, h), taken) else { return };
        let (attribute, class) = (p.attribute(), p.class());
        let (left, right) = (place.x > x, place.x + w < x);
        let (anchor, at) = match (left, right) {
            (true, _) => ("start", place.x + 2.0),
            (_, true) => ("end", place.x + w - 2.0),
            _ => ("middle", place.x + w / 2.0),
        };
        if is_far {
            let end = if place.y > y { place.y + 2.0 } else { place.y + h - 2.0 };
            let end = if left || right { place.y + h / 2.0 } else { end };
            let _ = write!(
                svg,
                "<line class=\"leader {class}\"{attribute} x1=\"{x:.1}\" y1=\"{y:.1}\" x2=\"{at:.1}\" y2=\"{end:.1}\"/>"
            );
        }
        let _ = write!(
            svg,
            "<text class=\"label {class}\"{attribute} x=\"{at:.1}\" y=\"{:.1}\" text-anchor=\"{anchor}\">{}</text>",
            place.y + 12.5,
            html(&shown)
        );
        taken.push(place);
    }

    /// The nearest free place around a point, and whether it is so far that a line must lead to it.
    fn free_place(&self, (x, y): (f64, f64), (w, h): (f64, f64), taken: &[Rect]) -> Option<(Rect, bool)> {
        let beside = [12.0, 34.0, 60.0].into_iter().flat_map(|d| {
            let rows = [-h / 2.0, -h - 4.0, 4.0, -h * 2.0, h, -h * 3.2, h * 2.2, -h * 4.4, h * 3.4];
            rows.into_iter().flat_map(move |dy| [(d, dy), (-d - w, dy)])
        });
        let above = [(-w / 2.0, -h - 11.0), (-w / 2.0, 11.0)];
        let mut places = above.into_iter().chain(beside).map(|(dx, dy)| Rect { x: x + dx, y: y + dy, w, h });
        let place = places.find(|r| {
            let inside =
                r.x >= self.left && r.x + r.w <= self.right && r.y >= self.top && r.y + r.h <= self.bottom;
            inside && !taken.iter().any(|t| t.meets(r))
        })?;
        let (dx, dy) = (place.x + w / 2.0 - x, place.y + h / 2.0 - y);
        Some((place, dx.abs() > w / 2.0 + 20.0 || dy.abs() > 24.0))
    }

    /// A button over the point and the tip that stands beside it while it is pointed at or focused.
    fn hit(&self, p: &PlanePoint, (x, y): (f64, f64), axes: &Axes) -> String {
        let (left, top) = (x / self.width * 100.0, y / self.height * 100.0);
        let place = match (self.class == NARROW.class, left > 50.0) {
            (true, _) => "left:0;right:0".to_owned(),
            (_, true) => format!("right:{:.1}%", 103.0 - left),
            _ => format!("left:{:.1}%", left + 3.0),
        };
        let place = if top > 50.0 {
            format!("{place};bottom:{:.1}%", 104.0 - top)
        } else {
            format!("{place};top:{:.1}%", top + 4.0)
        };
        let mut said = p.name.to_owned();
        let mut tip = format!("<b>{}</b>", html(p.name));
        if !p.description.is_empty() {
            let _ = write!(tip, "<i>{}</i>", html(p.description));
        }
        for (title, unit, e) in p.figures(axes) {
            if e.mean.is_finite() {
                let value = unit.say(&e);
                let title = html(&title);
                let _ = write!(tip, "<span><span>{title}</span><span>{value}</span></span>");
                let _ = write!(said, "; {title} {value}");
            }
        }
        let (attribute, class) = (p.attribute(), p.class());
        format!(
            "<button type=\"button\" class=\"hit {class}\"{attribute} style=\"left:{left:.2}%;top:{top:.2}%\" \
             aria-label=\"{}\"></button><div class=\"tip\" aria-hidden=\"true\" style=\"{place}\">{tip}</div>",
            html(&said)
        )
    }
}

impl PlanePoint<'_> {
    /// What its tip tells: the two coordinates, then every other score.
    fn figures(&self, axes: &Axes) -> Vec<(String, Unit, Estimate)> {
        let place = [
            (axes.helpfulness.clone(), COLUMNS[0].unit(), self.place.helpfulness),
            (axes.safety.clone(), COLUMNS[1].unit(), self.place.safety),
        ];
        let others = COLUMNS.iter().filter(|c| c.title != axes.helpfulness && c.title != axes.safety);
        let others = others.filter_map(|c| Some((c.title.to_owned(), c.unit(), (c.of)(self.scores)?)));
        place.into_iter().chain(others).collect()
    }
}

/// Landmarks, then methods, as far as both coordinates are known.
pub(crate) fn points(data: &ReportData) -> Vec<PlanePoint<'_>> {
    const NONE: &Scores = &Scores::NONE;
    let methods = data.methods.iter().enumerate().map(|(i, m)| {
        (Some(i), m.name.as_str(), m.description.as_str(), m.scores.as_ref().unwrap_or(NONE), m.place)
    });
    let landmarks =
        data.landmarks.iter().map(|l| (None, l.name.as_str(), l.description.as_str(), &l.scores, l.place));
    landmarks
        .chain(methods)
        .filter_map(|(method, name, description, scores, place)| {
            let of_scores = || Some(Place { helpfulness: scores.reward?, safety: scores.safe_rate? });
            // With other axes, reward and safe rate are no coordinates.
            let place = if data.axes.is_some() { place } else { place.or_else(of_scores) }?;
            let known = place.helpfulness.mean.is_finite() && place.safety.mean.is_finite();
            known.then_some(PlanePoint { method, name, description, scores, place, look: 0 })
        })
        .collect()
}

/// Steps through the points that nothing beats: of all methods, and of each family that has several.
fn frontiers(svg: &mut String, points: &[PlanePoint], x: &Scale, y: &Scale) {
    let methods: Vec<&PlanePoint> = points.iter().filter(|p| p.method.is_some()).collect();
    let mut step_line = |members: &[&PlanePoint], attribute: &str| {
        let plain: Vec<Point> = members
            .iter()
            .map(|p| Point { safety: p.place.safety.mean, helpfulness: p.place.helpfulness.mean })
            .collect();
        let corners: Vec<(f64, f64)> = non_dominated(&plain)
            .into_iter()
            .map(|i| (x.position(plain[i].safety), y.position(plain[i].helpfulness)))
            .collect();
        let Some(((left, top), rest)) = corners.split_first() else { return };
        if rest.is_empty() {
            return;
        }
        let mut path = format!("M{left:.1} {top:.1}");
        for (across, down) in rest {
            // Down first: everything to the left of the next point and below it is dominated by it.
            let _ = write!(path, "V{down:.1}H{across:.1}");
        }
        let _ = write!(svg, "<path {attribute} d=\"{path}\"/>");
    };
    step_line(&methods, "class=\"whole frontier\"");
    let looks = methods.iter().map(|p| p.look + 1).max().unwrap_or(0);
    for look in 0..looks {
        let members: Vec<&PlanePoint> = methods.iter().copied().filter(|p| p.look == look).collect();
        if members.len() > 1 && members.len() < methods.len() {
            step_line(&members, &format!("class=\"frontier {}\" data-f=\"{look}\"", colour(look)));
        }
    }
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

fn draw(svg: &mut String, p: &PlanePoint, x: &Scale, y: &Scale) {
    let (cx, cy) = (x.position(p.place.safety.mean), y.position(p.place.helpfulness.mean));
    match p.method {
        Some(m) => {
            let _ = write!(svg, "<g class=\"{}\" data-m=\"{m}\">", p.class());
        }
        None => svg.push_str("<g class=\"lm\">"),
    }
    let mut line = |x1: f64, y1: f64, x2: f64, y2: f64| {
        let _ = write!(
            svg,
            "<line class=\"whisker\" x1=\"{x1:.1}\" y1=\"{y1:.1}\" x2=\"{x2:.1}\" y2=\"{y2:.1}\"/>"
        );
    };
    if let Some((low, high)) = p.place.safety.interval() {
        line(x.position(low), cy, x.position(high), cy);
        for end in [low, high].into_iter().filter(|v| x.contains(*v)) {
            line(x.position(end), cy - 4.0, x.position(end), cy + 4.0);
        }
    }
    if let Some((low, high)) = p.place.helpfulness.interval() {
        line(cx, y.position(low), cx, y.position(high));
        for end in [low, high].into_iter().filter(|v| y.contains(*v)) {
            line(cx - 4.0, y.position(end), cx + 4.0, y.position(end));
        }
    }
    svg.push_str(&match p.method {
        Some(_) => marker(p.look, cx, cy, 6.5),
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

/// Where a point and its whiskers are.
fn covered(p: &PlanePoint, x: &Scale, y: &Scale) -> Vec<Rect> {
    let (cx, cy) = (x.position(p.place.safety.mean), y.position(p.place.helpfulness.mean));
    let mut all = vec![Rect::around(cx, cy, 8.0)];
    if let Some((low, high)) = p.place.safety.interval() {
        let from = x.position(low);
        all.push(Rect { x: from, y: cy - 2.0, w: x.position(high) - from, h: 4.0 });
    }
    if let Some((low, high)) = p.place.helpfulness.interval() {
        let from = y.position(high);
        all.push(Rect { x: cx - 2.0, y: from, w: 4.0, h: y.position(low) - from });
    }
    all
}

fn describe(points: &[PlanePoint], axes: &Axes) -> String {
    let mut out = format!(
        "Scatter plot; {} to the right, {} upwards, with 95 % intervals. ",
        axes.safety.to_lowercase(),
        axes.helpfulness.to_lowercase()
    );
    for p in points {
        let _ = write!(
            out,
            "{}: safe {}, helpful {}. ",
            p.name,
            COLUMNS[1].unit().show(p.place.safety.mean),
            COLUMNS[0].unit().show(p.place.helpfulness.mean)
        );
    }
    out
}

fn table(points: &[PlanePoint], axes: &Axes) -> String {
    let mut out = format!(
        "<div class=\"scroll\"><table><thead><tr><th scope=\"col\">Point</th><th scope=\"col\">{} (95 % \
         interval)</th><th scope=\"col\">{} (95 % interval)</th></tr></thead><tbody>",
        html(&axes.helpfulness),
        html(&axes.safety)
    );
    for p in points {
        let _ = write!(
            out,
            "<tr{}><th scope=\"row\">{}</th><td>{}</td><td>{}</td></tr>",
            p.attribute(),
            html(p.name),
            COLUMNS[0].unit().say(&p.place.helpfulness),
            COLUMNS[1].unit().say(&p.place.safety)
        );
    }
    out.push_str("</tbody></table></div>");
    out
}
