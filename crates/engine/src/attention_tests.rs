//! Attention against a plain one in f64 that holds every score, and its gradients against finite differences.

use super::*;
use crate::testing::{assert_close, dot, engines, numeric_gradient, random, rounded, wide};
use crate::{DType, Segment};

/// The key rows that query row `t` sees, read off the definition, nearest last.
fn seen_by(list: &[Segment], t: usize, window: Option<usize>) -> Vec<usize> {
    let segment =
        list.iter().find(|segment| (segment.start..segment.start + segment.len).contains(&t)).unwrap();
    let (start, len) = segment.context.unwrap_or((0, 0));
    let seen: Vec<usize> = (start..start + len).chain(segment.start..=t).collect();
    seen[seen.len() - window.unwrap_or(usize::MAX).min(seen.len())..].to_vec()
}

/// Whole score rows, in f64; returns output and log-sum-exp.
fn reference(
    q: &[f64],
    k: &[f64],
    v: &[f64],
    list: &[Segment],
    shape: AttentionShape,
) -> (Vec<f64>, Vec<f64>) {
    let AttentionShape { heads, kv_heads, head_dim, scale, window, cap } = shape;
    let capped = |s: f64| cap.map(f64::from).map_or(s, |cap| cap * (s / cap).tanh());
    let tokens = q.len() / (heads * head_dim);
    let (mut out, mut lse) = (vec![0.0; q.len()], vec![0.0; tokens * heads]);
    for t in 0..tokens {
        for head in 0..heads {
            let query = &q[(t * heads + head) * head_dim..][..head_dim];
            let at = |s: usize| (s * kv_heads + head / (heads / kv_heads)) * head_dim;
            let seen = seen_by(list, t, window);
            let score = |&s: &usize| capped(f64::from(scale) * dot(query, &k[at(s)..][..head_dim]));
            let scores: Vec<f64> = seen.iter().map(score).collect();
            let total: f64 = scores.iter().map(|score| score.exp()).sum();
            lse[t * heads + head] = total.ln();
            for (s, score) in seen.iter().zip(scores) {
                for j in 0..head_dim {
                    out[(t * heads + head) * head_dim + j] += score.exp() / total * v[at(*s) + j];
                }
            }
        }
    }
    (out, lse)
}

struct Case {
    shape: AttentionShape,
    segments: Segments,
    q: Array,
    k: Array,
    v: Array,
    dout: Array,
}

fn case(heads: usize, kv_heads: usize, head_dim: usize, list: &[(usize, Option<(usize, usize)>)]) -> Case {
    let mut start = 0;
    let mut segments = Vec::new();
    for &(len, context) in list {
        segments.push(Segment { start, len, context });
        start += len;
    }
    let scale = 1.0 / (head_dim as f32).sqrt();
    let shape = AttentionShape { heads, kv_heads, head_dim, scale, window: None, cap: None };
    Case {
        shape,
        segments: Segments::new(segments, start).unwrap(),
        q: random(1, start, heads * head_dim),
        k: random(2, start, kv_heads * head_dim),
        v: random(3, start, kv_heads * head_dim),
        dout: random(4, start, heads * head_dim),
    }
}

/// The same with a window, and scores capped where they bend.
fn windowed(case: Case, window: usize, cap: Option<f32>) -> Case {
    Case { shape: AttentionShape { window: Some(window), cap, ..case.shape }, ..case }
}

struct Results {
    out: Array,
    lse: Array,
    dq: Array,
    dk: Array,
    dv: Array,
}

fn run(engine: &Engine, case: &Case) -> Results {
    let tokens = case.segments.tokens();
    let qkv = Qkv { q: &case.q, k: &case.k, v: &case.v };
    let mut out = random(7, tokens, case.q.cols());
    let mut lse = Array::zeros(tokens, case.shape.heads);
    engine.attention(qkv, &case.segments, case.shape, &mut out, &mut lse).unwrap();
    // Filled with noise: gradients must overwrite.
    let (mut dq, mut dk, mut dv) = (out.clone(), case.k.clone(), case.k.clone());
    let forward = AttentionForward { out: &out, lse: &lse, dout: &case.dout };
    let grads = AttentionGrads { dq: &mut dq, dk: &mut dk, dv: &mut dv };
    engine.attention_backward(qkv, forward, &case.segments, case.shape, grads).unwrap();
    Results { out, lse, dq, dk, dv }
}

#[test]
fn forward_and_gradients_agree_with_finite_differences() {
    let cases = [
        case(1, 1, 1, &[(1, None)]),
        case(1, 1, 8, &[(5, None)]),
        case(4, 2, 3, &[(3, None), (2, Some((0, 3))), (3, Some((0, 3)))]),
        case(3, 1, 8, &[(2, None), (3, Some((1, 1))), (1, None), (2, Some((2, 4)))]),
        case(2, 2, 64, &[(2, None), (1, Some((0, 2)))]),
        windowed(case(4, 2, 3, &[(3, None), (2, Some((0, 3))), (3, Some((0, 3)))]), 3, Some(0.4)),
        windowed(case(3, 1, 8, &[(2, None), (3, Some((1, 1))), (1, None), (2, Some((2, 4)))]), 1, None),
        windowed(case(2, 2, 5, &[(21, None), (4, Some((0, 21)))]), 2, Some(0.7)),
    ];
    for engine in engines() {
        for case in &cases {
            let got = run(&engine, case);
            let (q, k, v, dout) = (wide(&case.q), wide(&case.k), wide(&case.v), wide(&case.dout));
            let attend =
                |q: &[f64], k: &[f64], v: &[f64]| reference(q, k, v, case.segments.list(), case.shape);
            let (out, lse) = attend(&q, &k, &v);
            assert_close("out", got.out.as_slice(), &out, 1e-6);
            assert_close("lse", got.lse.as_slice(), &lse, 1e-6);
            let want = numeric_gradient(&q, |q| dot(&dout, &attend(q, &k, &v).0));
            assert_close("dq", got.dq.as_slice(), &want, 1e-5);
            let want = numeric_gradient(&k, |k| dot(&dout, &attend(&q, k, &v).0));
            assert_close("dk", got.dk.as_slice(), &want, 1e-5);
            let want = numeric_gradient(&v, |v| dot(&dout, &attend(&q, &k, v).0));
            assert_close("dv", got.dv.as_slice(), &want, 1e-5);
        }
    }
}

/// Sizes beyond one tile of queries and of keys, prime and with context.
fn long() -> Case {
    case(6, 2, 16, &[(311, None), (131, Some((0, 311))), (67, Some((0, 311))), (1, None), (293, None)])
}

/// Windows of one row, of less than a tile, of more than one, and wider than all there is.
fn long_cases() -> Vec<Case> {
    let windows = [(1, Some(0.3)), (37, None), (270, Some(0.5)), (1000, None)];
    std::iter::once(long())
        .chain(windows.into_iter().map(|(window, cap)| windowed(long(), window, cap)))
        .collect()
}

#[test]
fn many_tiles_agree_with_whole_scores() {
    for case in long_cases() {
        let (q, k, v) = (wide(&case.q), wide(&case.k), wide(&case.v));
        let (out, lse) = reference(&q, &k, &v, case.segments.list(), case.shape);
        for engine in engines() {
            let got = run(&engine, &case);
            assert_close("out", got.out.as_slice(), &out, 2e-6);
            assert_close("lse", got.lse.as_slice(), &lse, 2e-6);
        }
    }
}

/// Rounded weights and gradients of scores: 2^-9 each, averaged over many keys.
#[test]
fn in_bf16_values_and_gradients_stay_near_those_of_f32_on_the_same_numbers() {
    for mut case in long_cases() {
        let narrow = [&case.q, &case.k, &case.v].map(rounded);
        let [q, k, v] =
            narrow.each_ref().map(|x| Array::from_vec(x.rows(), x.cols(), x.to_f32_vec()).unwrap());
        (case.q, case.k, case.v) = (q, k, v);
        for engine in engines() {
            let exact = run(&engine, &case);
            let [q, k, v] = &narrow;
            let (tokens, qkv) = (case.segments.tokens(), Qkv { q, k, v });
            let mut out = Array::zeros_of(DType::Bf16, tokens, q.cols()).unwrap();
            let mut lse = Array::zeros(tokens, case.shape.heads);
            engine.attention(qkv, &case.segments, case.shape, &mut out, &mut lse).unwrap();
            let (mut dq, mut dk, mut dv) = (exact.dq.clone(), exact.dk.clone(), exact.dv.clone());
            [&mut dq, &mut dk, &mut dv].into_iter().for_each(|x| x.fill(f32::NAN));
            let forward = AttentionForward { out: &out, lse: &lse, dout: &case.dout };
            let grads = AttentionGrads { dq: &mut dq, dk: &mut dk, dv: &mut dv };
            engine.attention_backward(qkv, forward, &case.segments, case.shape, grads).unwrap();
            let apart = |got: &[f32], want: &[f32]| -> f64 {
                let square = |x: f32| f64::from(x) * f64::from(x);
                let difference: f64 = got.iter().zip(want).map(|(got, want)| square(got - want)).sum();
                // Where a query sees one key alone, gradients of the scores cancel to nothing.
                let size = want.iter().map(|want| square(*want)).sum::<f64>();
                (difference / size.max(0.01 * exact.dv.as_slice().iter().map(|dv| square(*dv)).sum::<f64>()))
                    .sqrt()
            };
            for (what, got, want) in [
                ("out", out.to_f32_vec(), &exact.out),
                ("lse", lse.into_vec(), &exact.lse),
                ("dq", dq.into_vec(), &exact.dq),
                ("dk", dk.into_vec(), &exact.dk),
                ("dv", dv.into_vec(), &exact.dv),
            ] {
                let apart = apart(&got, want.as_slice());
                assert!(apart < 1e-2, "{what} of {:?}: {apart}", case.shape);
            }
        }
    }
}

#[test]
fn a_window_wider_than_all_rows_changes_no_bit() {
    for engine in engines() {
        let (plain, wide) = (run(&engine, &long()), run(&engine, &windowed(long(), 1000, None)));
        assert_eq!((plain.out, plain.lse), (wide.out, wide.lse));
        assert_eq!((plain.dq, plain.dk, plain.dv), (wide.dq, wide.dk, wide.dv));
    }
}

#[test]
fn a_shared_context_equals_the_context_repeated() {
    // One prompt seen by two responses, against two sequences that repeat it: values equal, and the gradients of
    // the prompt's rows are the sum over the copies.
    let (prompt, first, second) = (301, 57, 23);
    let shared = case(6, 2, 16, &[(prompt, None), (first, Some((0, prompt))), (second, Some((0, prompt)))]);
    let rows: Vec<usize> =
        (0..prompt + first).chain(0..prompt).chain(prompt + first..prompt + first + second).collect();
    for engine in engines() {
        let pick = |x: &Array| {
            let mut out = Array::zeros(rows.len(), x.cols());
            engine.gather_rows(x, &rows, &mut out).unwrap();
            out
        };
        let mut dout = pick(&shared.dout);
        for row in prompt + first..2 * prompt + first {
            dout.row_mut(row).fill(0.0);
        }
        let repeated = Case {
            shape: shared.shape,
            segments: Segments::independent(&[prompt + first, prompt + second]),
            q: pick(&shared.q),
            k: pick(&shared.k),
            v: pick(&shared.v),
            dout,
        };
        let (one, two) = (run(&engine, &shared), run(&engine, &repeated));
        assert_close("out", two.out.as_slice(), &wide(&pick(&one.out)), 1e-6);
        for (one, two) in [(&one.dq, &two.dq), (&one.dk, &two.dk), (&one.dv, &two.dv)] {
            let mut sum = Array::zeros(one.rows(), one.cols());
            engine.scatter_add_rows(two, &rows, &mut sum).unwrap();
            assert_close("gradient", one.as_slice(), &wide(&sum), 1e-5);
        }
    }
}

#[test]
fn gradients_over_many_tiles_follow_a_direction_derivative() {
    for case in long_cases() {
        let (q, k, v, dout) = (wide(&case.q), wide(&case.k), wide(&case.v), wide(&case.dout));
        let direction = |seed, like: &Array| wide(&random(seed, like.rows(), like.cols()));
        let (tq, tk, tv) = (direction(21, &case.q), direction(22, &case.k), direction(23, &case.v));
        let along = |step: f64| {
            let moved =
                |x: &[f64], t: &[f64]| -> Vec<f64> { x.iter().zip(t).map(|(x, t)| x + step * t).collect() };
            let (q, k, v) = (moved(&q, &tq), moved(&k, &tk), moved(&v, &tv));
            dot(&dout, &reference(&q, &k, &v, case.segments.list(), case.shape).0)
        };
        let want = (along(1e-5) - along(-1e-5)) / 2e-5;
        for engine in engines() {
            let got = run(&engine, &case);
            let got = dot(&wide(&got.dq), &tq) + dot(&wide(&got.dk), &tk) + dot(&wide(&got.dv), &tv);
            assert!((got - want).abs() < 1e-5 * want.abs().max(10.0), "{got} instead of {want}");
        }
    }
}

#[test]
fn thread_counts_do_not_change_a_bit() {
    let case = long();
    let results = |threads| {
        let Results { out, lse, dq, dk, dv } = run(&Engine::cpu(Some(threads)).unwrap(), &case);
        [out, lse, dq, dk, dv]
    };
    let one = results(1);
    assert!(one == results(2) && one == results(3));
}

#[test]
fn a_nan_query_shows_in_its_own_row_only() {
    let mut case = case(2, 1, 8, &[(40, None)]);
    case.q.row_mut(3)[0] = f32::NAN;
    for engine in engines() {
        let got = run(&engine, &case);
        assert!(got.out.row(3)[..8].iter().all(|value| value.is_nan()));
        assert!(got.out.row(2).iter().chain(got.out.row(4)).all(|value| value.is_finite()));
    }
}

#[test]
fn shapes_that_do_not_fit_are_refused() {
    let engine = Engine::cpu(Some(1)).unwrap();
    let case = case(2, 1, 8, &[(4, None)]);
    let qkv = Qkv { q: &case.q, k: &case.k, v: &case.v };
    let mut lse = Array::zeros(4, 2);
    let uneven = AttentionShape { heads: 3, kv_heads: 2, ..case.shape };
    assert!(engine.attention(qkv, &case.segments, uneven, &mut Array::zeros(4, 16), &mut lse).is_err());
    let none = AttentionShape { heads: 0, kv_heads: 0, ..case.shape };
    assert!(engine.attention(qkv, &case.segments, none, &mut Array::zeros(4, 16), &mut lse).is_err());
    assert!(engine.attention(qkv, &case.segments, case.shape, &mut Array::zeros(3, 16), &mut lse).is_err());
    for (window, cap) in [(Some(0), None), (None, Some(0.0)), (None, Some(f32::NAN))] {
        let shape = AttentionShape { window, cap, ..case.shape };
        assert!(engine.attention(qkv, &case.segments, shape, &mut Array::zeros(4, 16), &mut lse).is_err());
    }
    let five = Segments::independent(&[5]);
    assert!(engine.attention(qkv, &five, case.shape, &mut Array::zeros(4, 16), &mut lse).is_err());
}
