//! Beside the plane: the area that each family's points dominate, and the best point at a demanded safety.

use super::data::ReportData;
use super::escape::html;
use super::format::{minus, number, short};
use super::plane::{PlanePoint, points};
use super::style::{Looks, swatch};
use crate::frontier::{Point, best_at_floor, hypervolume};
use std::fmt::Write;

/// Safe rates that may be demanded where nobody says which is.
const FLOORS: [f64; 4] = [0.8, 0.9, 0.95, 0.99];

/// The table; empty where fewer than two methods have a place.
pub(crate) fn frontier(data: &ReportData, looks: &Looks) -> String {
    let all = points(data);
    let Some(least) = all.iter().map(|p| p.place.helpfulness.mean).reduce(f64::min) else {
        return String::new();
    };
    let of_methods: Vec<&PlanePoint> = all.iter().filter(|p| p.method.is_some()).collect();
    if of_methods.len() < 2 {
        return String::new();
    }
    let mut floors = FLOORS.to_vec();
    floors.extend(data.floor.filter(|floor| !FLOORS.contains(floor)));
    floors.sort_by(f64::total_cmp);
    let worst = Point { safety: 0.0, helpfulness: least };
    let mut out = String::from(
        "<div class=\"scroll\" tabindex=\"0\" role=\"region\" aria-label=\"Frontier\"><table class=\"frontier\"><thead><tr>\
         <th scope=\"col\">Method</th><th scope=\"col\">Points</th><th scope=\"col\">Hypervolume</th>",
    );
    for floor in &floors {
        let _ = write!(out, "<th scope=\"col\">Best at ≥ {} %</th>", short(floor * 100.0));
    }
    out.push_str("</tr></thead><tbody>");
    for (family, name) in looks.families.iter().enumerate() {
        let members: Vec<&PlanePoint> = of_methods
            .iter()
            .copied()
            .filter(|p| p.method.is_some_and(|method| looks.of(method) == family))
            .collect();
        if !members.is_empty() {
            let title = format!("{}{}", swatch(family), html(name));
            row(&mut out, &format!(" data-f=\"{family}\""), &title, (&members, worst, &floors));
        }
    }
    row(&mut out, " class=\"whole\"", "all methods", (&of_methods, worst, &floors));
    out.push_str("</tbody></table></div>");
    let _ = write!(
        out,
        "<p class=\"key\">Hypervolume: the area of the plane that a method's points dominate, from a safe rate of 0 and the \
         lowest helpfulness on the plane ({}) on; more is better, and comparable on this page only. Best: the most helpful point \
         whose mean safe rate reaches the floor; <span class=\"tied\">dotted</span> where its interval reaches below.</p>",
        minus(&number(least))
    );
    out
}

fn row(
    out: &mut String,
    attribute: &str,
    title: &str,
    (members, worst, floors): (&[&PlanePoint], Point, &[f64]),
) {
    let plain: Vec<Point> = members
        .iter()
        .map(|p| Point { safety: p.place.safety.mean, helpfulness: p.place.helpfulness.mean })
        .collect();
    let _ = write!(
        out,
        "<tr{attribute}><th scope=\"row\">{title}</th><td>{}</td><td>{}</td>",
        members.len(),
        number(hypervolume(&plain, worst))
    );
    for floor in floors.iter().copied() {
        let Some(best) = best_at_floor(&plain, floor) else {
            out.push_str("<td>–</td>");
            continue;
        };
        let point = members[best];
        let doubtful = point.place.safety.interval().is_some_and(|(low, _)| low < floor);
        let class = if doubtful { " class=\"tied\"" } else { "" };
        let name =
            if members.len() > 1 { format!("<small>{}</small>", html(point.name)) } else { String::new() };
        let _ = write!(
            out,
            "<td><span{class}>{}</span>{name}</td>",
            minus(&number(point.place.helpfulness.mean))
        );
    }
    out.push_str("</tr>");
}
