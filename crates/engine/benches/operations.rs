//! Speed of the operations at the shapes of a 12.6 M-parameter Llama (width 384, feed-forward 1024, 6 heads, 2 key
//! heads, vocabulary 8192) with 4,096 rows; the median and the best of interleaved rounds. On one thread it counts
//! processor time where the system tells it, so that a busy machine disturbs less; on more, wall time.
//!
//!     cargo bench -p bso-engine -- [THREADS] [f32|bf16]

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a benchmark prints, and stops where it cannot run"
)]
#![allow(missing_docs, reason = "a binary of its own")]

use std::time::Instant;

use bso_engine::{
    Accumulate, Array, AttentionForward, AttentionGrads, AttentionShape, DType, Engine, HeadInputs,
    LinearGrads, PackedWeight, Qkv, Segments, SelectedLogProbGrads, SwigluGrads, Weight,
};

const ROUNDS: usize = 7;

struct Measured<'a> {
    name: String,
    flops: f64,
    run: Box<dyn FnMut() + 'a>,
    seconds: Vec<f64>,
    repeats: usize,
}

fn array(rows: usize, cols: usize) -> Array {
    // Any numbers do, as long as they are neither zero nor denormal.
    let data = (0..rows * cols).map(|i| ((i * 7919) % 1009) as f32 / 1009.0 - 0.5).collect();
    Array::from_vec(rows, cols, data).unwrap()
}

fn main() {
    let threads = std::env::args().skip(1).find_map(|argument| argument.parse().ok());
    let engine = Engine::cpu(threads).unwrap();
    let bf16 = std::env::args().any(|argument| argument == "bf16");
    let dtype = if bf16 { DType::Bf16 } else { DType::F32 };
    println!("{} threads, {}, {}", engine.num_threads(), engine.path().name(), dtype.name());
    let rows = 4096;
    let mut all: Vec<Measured<'_>> = Vec::new();
    for (i, o) in [(384, 384), (384, 128), (384, 1024), (1024, 384), (384, 8192)] {
        let [x, dy] = [array(rows, i), array(rows, o)].map(|x| x.to_dtype(dtype).unwrap());
        let w = array(o, i);
        let mut packed = PackedWeight::new(o, i, true);
        engine.pack_weight(&w, &mut packed).unwrap();
        let flops = 2.0 * (rows * i * o) as f64;
        let engine = &engine;
        let (x2, w2, packed2, dy2) = (x.clone(), w.clone(), packed.clone(), dy.clone());
        let (x3, w3, packed3) = (x.clone(), w.clone(), packed.clone());
        let mut y = Array::zeros_of(dtype, rows, o).unwrap();
        let mut dx = Array::zeros_of(dtype, rows, i).unwrap();
        let mut dw = Array::zeros(o, i);
        all.push(Measured::new(format!("linear {i} -> {o}"), flops, move || {
            let w = Weight::new(&w, Some(&packed));
            engine.linear(&x, w, None, &mut y).unwrap();
        }));
        all.push(Measured::new(format!("linear {i} -> {o}, dx"), flops, move || {
            let (w, dx) = (Weight::new(&w2, Some(&packed2)), Some((&mut dx, Accumulate::Overwrite)));
            engine.linear_backward(LinearGrads { dy: &dy, x: &x2, w, dx, dw: None, db: None }).unwrap();
        }));
        all.push(Measured::new(format!("linear {i} -> {o}, dw"), flops, move || {
            let (w, dw) = (Weight::new(&w3, Some(&packed3)), Some(&mut dw));
            engine.linear_backward(LinearGrads { dy: &dy2, x: &x3, w, dx: None, dw, db: None }).unwrap();
        }));
    }
    push_attention((&engine, dtype), rows, &mut all);
    push_swiglu((&engine, dtype), rows, &mut all);
    push_head((&engine, dtype), rows / 2, &mut all);
    for round in 0..=ROUNDS {
        for measured in &mut all {
            // The first round is a warm-up that tells how often to repeat: the processor's clock ticks in
            // milliseconds.
            let repeats = measured.repeats;
            let (start, processor) = (Instant::now(), processor_seconds());
            (0..repeats).for_each(|_| (measured.run)());
            let wall = start.elapsed().as_secs_f64();
            let alone = engine.num_threads() == 1;
            let used = processor.zip(processor_seconds()).filter(|_| alone).map(|(from, to)| to - from);
            if round == 0 {
                measured.repeats = (0.1 / wall).ceil().clamp(1.0, 1000.0) as usize;
                continue;
            }
            measured.seconds.push(used.unwrap_or(wall) / repeats as f64);
        }
    }
    for measured in &mut all {
        measured.seconds.sort_by(f64::total_cmp);
        let (best, median) = (measured.seconds[0], measured.seconds[ROUNDS / 2]);
        println!(
            "{:28} {:8.3} ms median {:8.3} ms best {:7.1} GFLOP/s median {:7.1} best",
            measured.name,
            median * 1e3,
            best * 1e3,
            measured.flops / median / 1e9,
            measured.flops / best / 1e9,
        );
    }
}

/// Processor time of this thread so far, where the system has it.
fn processor_seconds() -> Option<f64> {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").ok()?;
    Some(text.split_whitespace().next()?.parse::<f64>().ok()? / 1e9)
}

impl<'a> Measured<'a> {
    fn new(name: String, flops: f64, run: impl FnMut() + 'a) -> Self {
        Self { name, flops, run: Box::new(run), seconds: Vec::with_capacity(ROUNDS), repeats: 1 }
    }
}

fn push_attention<'a>((engine, dtype): (&'a Engine, DType), rows: usize, all: &mut Vec<Measured<'a>>) {
    let shape = AttentionShape { heads: 6, kv_heads: 2, head_dim: 64, scale: 0.125, window: None, cap: None };
    let segments = Segments::independent(&vec![256; rows / 256]);
    let dout = array(rows, 384);
    let [q, k, v] = [384, 128, 128].map(|cols| array(rows, cols).to_dtype(dtype).unwrap());
    let (mut out, mut lse) = (q.clone(), Array::zeros(rows, 6));
    engine.attention(Qkv { q: &q, k: &k, v: &v }, &segments, shape, &mut out, &mut lse).unwrap();
    // Causal: half of the 256 x 256 scores, four flops each and value.
    let flops = (rows * 128 * 384 * 4) as f64;
    let (q2, k2, v2, segments2) = (q.clone(), k.clone(), v.clone(), segments.clone());
    let (mut out2, mut lse2) = (out.clone(), lse.clone());
    all.push(Measured::new("attention".to_owned(), flops, move || {
        engine.attention(Qkv { q: &q2, k: &k2, v: &v2 }, &segments2, shape, &mut out2, &mut lse2).unwrap();
    }));
    let (mut dq, mut dk, mut dv) =
        (Array::zeros(rows, 384), Array::zeros(rows, 128), Array::zeros(rows, 128));
    all.push(Measured::new("attention backward".to_owned(), flops * 2.5, move || {
        let forward = AttentionForward { out: &out, lse: &lse, dout: &dout };
        let grads = AttentionGrads { dq: &mut dq, dk: &mut dk, dv: &mut dv };
        engine.attention_backward(Qkv { q: &q, k: &k, v: &v }, forward, &segments, shape, grads).unwrap();
    }));
}

fn push_swiglu<'a>((engine, dtype): (&'a Engine, DType), rows: usize, all: &mut Vec<Measured<'a>>) {
    let gate = array(rows, 1024).to_dtype(dtype).unwrap();
    let (up, dout) = (gate.clone(), gate.clone());
    let (mut out, mut dgate, mut dup) = (gate.clone(), gate.clone(), gate.clone());
    let (gate2, up2) = (gate.clone(), up.clone());
    all.push(Measured::new("swiglu".to_owned(), (rows * 1024) as f64, move || {
        engine.swiglu(&gate2, &up2, &mut out).unwrap();
    }));
    all.push(Measured::new("swiglu backward".to_owned(), (rows * 1024) as f64, move || {
        let grads = SwigluGrads { dout: &dout, gate: &gate, up: &up, dgate: &mut dgate, dup: &mut dup };
        engine.swiglu_backward(grads).unwrap();
    }));
}

fn push_head<'a>((engine, dtype): (&'a Engine, DType), rows: usize, all: &mut Vec<Measured<'a>>) {
    let (vocab, d) = (8192, 384);
    let (hidden, head) = (array(rows, d).to_dtype(dtype).unwrap(), array(vocab, d));
    let mut packed = PackedWeight::new(vocab, d, true);
    engine.pack_weight(&head, &mut packed).unwrap();
    let targets: Vec<u32> = (0..rows).map(|row| (row * 31 % vocab) as u32).collect();
    let (mut log_probs, mut lse) = (vec![0.0; rows], Array::zeros(rows, 1));
    let weight = Weight::new(&head, Some(&packed));
    let inputs = HeadInputs { hidden: &hidden, head: weight, targets: &targets, cap: None, update: None };
    engine.selected_log_prob(inputs, &mut log_probs, &mut lse).unwrap();
    let flops = 2.0 * (rows * vocab * d) as f64;
    let (hidden2, head2, packed2) = (hidden.clone(), head.clone(), packed.clone());
    let (targets2, mut lse2) = (targets.clone(), lse.clone());
    all.push(Measured::new("head".to_owned(), flops, move || {
        let weight = Weight::new(&head2, Some(&packed2));
        let inputs =
            HeadInputs { hidden: &hidden2, head: weight, targets: &targets2, cap: None, update: None };
        engine.selected_log_prob(inputs, &mut log_probs, &mut lse2).unwrap();
    }));
    let (weights, mut dhidden, mut dhead) = (vec![0.5; rows], Array::zeros(rows, d), head.clone());
    all.push(Measured::new("head backward".to_owned(), flops * 3.0, move || {
        let weight = Weight::new(&head, Some(&packed));
        let inputs = HeadInputs { hidden: &hidden, head: weight, targets: &targets, cap: None, update: None };
        let grads = SelectedLogProbGrads {
            lse: &lse,
            weights: &weights,
            dhidden: &mut dhidden,
            dhead: Some(&mut dhead),
            dupdate: None,
        };
        engine.selected_log_prob_backward(inputs, grads).unwrap();
    }));
}
