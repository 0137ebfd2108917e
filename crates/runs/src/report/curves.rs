//! Training curves as small multiples: one static SVG per metric, one line per method, a data table behind each.
//! The script adds a cursor; it gets the drawn positions, so that scales live here only.

use super::data::{Curve, MethodReport};
use super::escape::{html, plain};
use super::format::{minus, number, short};
use super::scale::Scale;
use super::style::{Looks, colour, marker};
use crate::{Quadrant, key};
use serde::Serialize;
use std::collections::BTreeMap;
use std::fmt::Write;

const WIDTH: f64 = 420.0;
const HEIGHT: f64 = 250.0;
const LEFT: f64 = 52.0;
const RIGHT: f64 = 406.0;
const TOP: f64 = 12.0;
const BOTTOM: f64 = 212.0;

/// Longer curves are drawn from at most so many means of neighbouring points.
const MAX_POINTS: usize = 120;
/// Rows of a data table.
const MAX_ROWS: usize = 40;

/// Metrics that are drawn, with title and meaning, in order; curves of other metrics follow under their own names.
pub(crate) const SHOWN: [(&str, &str, &str); 15] = [
    (key::LOSS, "Loss", "mean per pair (or token); losses of different objectives are on different scales"),
    (key::REWARDS_MARGINS, "Margin", "beta times the log-ratio difference of chosen and rejected"),
    (key::REWARDS_ACCURACIES, "Accuracy", "share of pairs with a positive margin"),
    (key::LOG_R, "log R, mean", "before the clamp; below 0 the model agrees with the pair"),
    (key::FRAC_CLAMPED, "Clamped share", "pairs whose log R lies outside the clamp"),
    ("eval_loss", "Held-out loss", "on the evaluation split"),
    ("eval_rewards/accuracies", "Held-out accuracy", "on the evaluation split"),
    ("eval_rewards/margins", "Held-out margin", "on the evaluation split"),
    (key::LOGPS_CHOSEN, "Log-prob of chosen", "nats, summed over the response"),
    (key::LOGPS_REJECTED, "Log-prob of rejected", "nats, summed over the response"),
    (key::REWARDS_CHOSEN, "Reward of chosen", "beta times the log-ratio to the reference"),
    (key::REWARDS_REJECTED, "Reward of rejected", "beta times the log-ratio to the reference"),
    (key::GRAD_NORM, "Gradient norm", "before clipping"),
    (key::LEARNING_RATE, "Learning rate", "of the step"),
    (key::TOKENS_PER_SECOND, "Tokens per second", "throughput since the previous row"),
];

/// Drawn for each safety quadrant.
const OF_QUADRANTS: [(&str, &str); 2] = [(key::LOG_R, "log R"), (key::FRAC_CLAMPED, "Clamped share")];

/// A plot: the metric, its title and its meaning.
pub(crate) struct Plot {
    pub(crate) key: String,
    title: String,
    meaning: String,
}

/// The plots of the safety quadrants, in order.
pub(crate) fn of_quadrants() -> Vec<Plot> {
    let plot = |(name, title): (&str, &str), quadrant: Quadrant| Plot {
        key: format!("{}{name}", quadrant.prefix()),
        title: title.to_owned(),
        meaning: quadrant.in_words().to_owned(),
    };
    OF_QUADRANTS.into_iter().flat_map(|of| Quadrant::ALL.map(|quadrant| plot(of, quadrant))).collect()
}

/// What the script needs to know of one plot.
#[derive(Serialize)]
pub(crate) struct PlotData {
    width: f64,
    height: f64,
    title: String,
    series: Vec<SeriesData>,
}

#[derive(Serialize)]
struct SeriesData {
    method: usize,
    /// Step, value as text, x, y.
    points: Vec<(u64, String, f64, f64)>,
}

struct Series {
    method: usize,
    /// Logged rows behind each point.
    every: usize,
    points: Vec<(u64, Option<f64>)>,
}

/// All plots as HTML, those of the quadrants under a heading of their own, and what the script needs of them in the same order.
pub(crate) fn curves(methods: &[MethodReport], looks: &Looks) -> (String, Vec<PlotData>) {
    let quadrants = of_quadrants();
    let usual = metrics(methods, &quadrants);
    let (mut html, mut plots) = (String::new(), Vec::new());
    for (heading, group) in [("", usual), ("<h3 class=\"sub\">By safety quadrant</h3>", quadrants)] {
        let mut figures = String::new();
        for plot in &group {
            let series = series(methods, &plot.key);
            // A share that is 0 everywhere is told by the plot of all pairs.
            let flat =
                !heading.is_empty() && series.iter().all(|s| s.points.iter().all(|(_, v)| *v == Some(0.0)));
            if !series.is_empty() && !flat {
                let (figure, data) = figure(plots.len(), plot, &series, (methods, looks));
                figures.push_str(&figure);
                plots.push(data);
            }
        }
        if !figures.is_empty() {
            let _ = write!(html, "{heading}<div class=\"plots\">{figures}</div>");
        }
    }
    (html, plots)
}

fn series(methods: &[MethodReport], key: &str) -> Vec<Series> {
    let one = |(method, m): (usize, &MethodReport)| {
        let curve = m.curves.iter().find(|c| c.key == key)?;
        let drawn = curve.points.iter().any(|(_, v)| v.is_some_and(f64::is_finite));
        let every = curve.points.len().div_ceil(MAX_POINTS).max(1);
        drawn.then(|| Series { method, every, points: thinned(curve, every) })
    };
    methods.iter().enumerate().filter_map(one).collect()
}

/// The plots that are always drawn where there are figures, then those of metrics that only some run knows.
fn metrics(methods: &[MethodReport], quadrants: &[Plot]) -> Vec<Plot> {
    let plot = |key: &str, title: &str, meaning: &str| Plot {
        key: key.to_owned(),
        title: title.to_owned(),
        meaning: meaning.to_owned(),
    };
    let mut found: Vec<Plot> = SHOWN.iter().map(|(key, title, meaning)| plot(key, title, meaning)).collect();
    for curve in methods.iter().flat_map(|m| &m.curves) {
        if !found.iter().chain(quadrants).any(|plot| plot.key == curve.key) {
            found.push(plot(&curve.key, &curve.key, ""));
        }
    }
    found
}

/// Means of neighbouring points where there are too many to draw.
fn thinned(curve: &Curve, every: usize) -> Vec<(u64, Option<f64>)> {
    let mean = |piece: &[(u64, Option<f64>)]| {
        let known: Vec<f64> = piece.iter().filter_map(|(_, v)| v.filter(|v| v.is_finite())).collect();
        let value = (!known.is_empty()).then(|| known.iter().sum::<f64>() / known.len() as f64);
        (piece.last().map_or(0, |(step, _)| *step), value)
    };
    // Bounds that spread the remainder: a short last piece would jump.
    let (n, pieces) = (curve.points.len(), curve.points.len().div_ceil(every));
    (0..pieces).map(|i| mean(&curve.points[i * n / pieces..(i + 1) * n / pieces])).collect()
}

fn figure(
    index: usize,
    Plot { title, meaning, .. }: &Plot,
    series: &[Series],
    (methods, looks): (&[MethodReport], &Looks),
) -> (String, PlotData) {
    let values: Vec<f64> = series.iter().flat_map(|s| s.points.iter().filter_map(|(_, v)| *v)).collect();
    let steps = || series.iter().flat_map(|s| s.points.iter().map(|(step, _)| *step as f64));
    // Single points (one evaluation, at the end) stand where the run ended, not spread over the few steps between ends.
    let single = series.iter().all(|s| s.points.len() < 2);
    let first = if single { 0.0 } else { steps().fold(f64::MAX, f64::min) };
    let x = Scale::linear(first, steps().fold(0.0, f64::max), (LEFT, RIGHT));
    let mut y = Scale::fit(&values, (BOTTOM, TOP));
    if title.to_lowercase().contains("accuracy") || title.contains("share") {
        y = y.within(0.0, 1.0);
    }
    let mut told = vec![html(meaning)];
    told.retain(|t| !t.is_empty());
    if y.is_logarithmic() {
        told.push("logarithmic axis".to_owned());
    }
    if let Some(every) = series.iter().map(|s| s.every).max().filter(|n| *n > 1) {
        told.push(format!("points are means of {every} logged rows"));
    }
    let mut svg = format!(
        "<svg class=\"plot\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\" aria-labelledby=\"c{index}-title c{index}-desc\">\
         <title id=\"c{index}-title\">{}</title><desc id=\"c{index}-desc\">{}</desc>",
        html(title),
        html(&describe(series, methods))
    );
    axes(&mut svg, &x, &y);
    for s in series {
        draw(&mut svg, s, looks.of(s.method), (&x, &y));
    }
    svg.push_str("</svg>");
    let html = format!(
        "<figure><figcaption><b>{}</b><span>{}</span></figcaption><div class=\"frame\">{svg}\
         <div class=\"cursor\" data-plot=\"{index}\"></div></div>\
         <details class=\"data\"><summary>Data of this plot</summary>{}</details></figure>",
        html(title),
        told.join("; "),
        table(series, methods)
    );
    let series = series
        .iter()
        .map(|s| SeriesData {
            method: s.method,
            points: s
                .points
                .iter()
                .filter_map(|(step, v)| {
                    let v = (*v)?;
                    let round = |p: f64| (p * 10.0).round() / 10.0;
                    Some((*step, minus(&number(v)), round(x.position(*step as f64)), round(y.position(v))))
                })
                .collect(),
        })
        .collect();
    (html, PlotData { width: WIDTH, height: HEIGHT, title: plain(title), series })
}

fn axes(svg: &mut String, x: &Scale, y: &Scale) {
    for tick in x.ticks(5).into_iter().filter(|t| t.fract() == 0.0) {
        let at = x.position(tick);
        let _ = write!(
            svg,
            "<text class=\"tick\" x=\"{at:.1}\" y=\"{}\" text-anchor=\"middle\">{}</text>",
            BOTTOM + 17.0,
            short(tick)
        );
    }
    for tick in y.ticks(5) {
        let at = y.position(tick);
        let _ = write!(
            svg,
            "<line class=\"grid\" x1=\"{LEFT}\" y1=\"{at:.1}\" x2=\"{RIGHT}\" y2=\"{at:.1}\"/>\
             <text class=\"tick\" x=\"{}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>",
            LEFT - 7.0,
            at + 4.0,
            short(tick)
        );
    }
    let _ = write!(
        svg,
        "<text class=\"name\" x=\"{}\" y=\"{}\" text-anchor=\"middle\">step</text>",
        (LEFT + RIGHT) / 2.0,
        HEIGHT - 4.0
    );
}

/// A gap in the values is a gap in the line.
fn draw(svg: &mut String, s: &Series, look: usize, (x, y): (&Scale, &Scale)) {
    let mut path = String::new();
    let mut pen_down = false;
    let mut last = None;
    for (step, value) in &s.points {
        let Some(value) = value else {
            pen_down = false;
            continue;
        };
        let (px, py) = (x.position(*step as f64), y.position(*value));
        let _ = write!(path, "{}{px:.1} {py:.1}", if pen_down { 'L' } else { 'M' });
        pen_down = true;
        last = Some((px, py));
    }
    let end = last.map_or(String::new(), |(px, py)| marker(look, px, py, 4.0));
    let _ = write!(
        svg,
        "<g class=\"{}\" data-m=\"{}\"><path class=\"line\" d=\"{path}\"/>{end}</g>",
        colour(look),
        s.method
    );
}

fn describe(series: &[Series], methods: &[MethodReport]) -> String {
    let mut out = String::from("Lines over optimiser steps. ");
    for s in series {
        let known: Vec<f64> = s.points.iter().filter_map(|(_, v)| *v).collect();
        if let (Some(first), Some(last)) = (known.first(), known.last()) {
            let _ = write!(out, "{}: from {} to {}. ", methods[s.method].name, number(*first), number(*last));
        }
    }
    out
}

fn table(series: &[Series], methods: &[MethodReport]) -> String {
    let mut rows: BTreeMap<u64, Vec<Option<f64>>> = BTreeMap::new();
    for (column, s) in series.iter().enumerate() {
        for (step, value) in &s.points {
            rows.entry(*step).or_insert_with(|| vec![None; series.len()])[column] = *value;
        }
    }
    let every = rows.len().div_ceil(MAX_ROWS).max(1);
    let last = rows.len().saturating_sub(1);
    let mut out = String::from("<div class=\"scroll\"><table><thead><tr><th scope=\"col\">Step</th>");
    for s in series {
        let _ = write!(out, "<th scope=\"col\">{}</th>", html(&methods[s.method].name));
    }
    out.push_str("</tr></thead><tbody>");
    for (_, (step, values)) in rows.iter().enumerate().filter(|(i, _)| i % every == 0 || *i == last) {
        let _ = write!(out, "<tr><th scope=\"row\">{step}</th>");
        for value in values {
            let _ = write!(out, "<td>{}</td>", minus(&number(value.unwrap_or(f64::NAN))));
        }
        out.push_str("</tr>");
    }
    out.push_str("</tbody></table></div>");
    out
}
