//! Attention over segments with shared contexts, grouped heads, windows and caps, forward and backward.

use bso_cuda::Number;
use bso_cuda::operation::{self, AttentionKernels, AttentionTiles, Qkv};
use bso_engine::Array;
use bso_engine::{AttentionForward, AttentionGrads, AttentionShape, DType, Engine, Segment, Segments};

use crate::machine::{
    BF16, Machine, assert_close, assert_near, on_every_machine, random, random_of, zeros_of,
};

/// On gradients and outputs in f32, whose sums are in another order than the CPU's.
const TOLERANCE: f64 = 1e-5;
/// On all of them where queries, keys and values are in bf16: the CPU also rounds what its products read (scaled
/// queries, weights, their gradients), the f32 kernels do not.
const TOLERANCE_BF16: f64 = 2.0 * BF16;

fn segment(start: usize, len: usize, context: Option<(usize, usize)>) -> Segment {
    Segment { start, len, context }
}

fn batches() -> Vec<Vec<Segment>> {
    vec![
        vec![segment(0, 1, None)],
        // Longer than a tile of tensor cores.
        vec![segment(0, 70, None), segment(70, 67, Some((0, 70)))],
        // A prompt, two responses, an unrelated sequence.
        vec![
            segment(0, 37, None),
            segment(37, 20, Some((0, 37))),
            segment(57, 5, Some((0, 37))),
            segment(62, 19, None),
        ],
        // Contexts that begin and end inside another segment, and reach over two.
        vec![
            segment(0, 20, None),
            segment(20, 3, Some((0, 20))),
            segment(23, 18, Some((2, 6))),
            segment(41, 4, Some((10, 20))),
        ],
    ]
}

#[test]
fn every_kind_of_attention() {
    let engine = Engine::cpu(Some(1)).unwrap();
    let shape = |heads, kv_heads, head_dim, window, cap| AttentionShape {
        heads,
        kv_heads,
        head_dim,
        scale: 1.0 / (head_dim as f32).sqrt(),
        window,
        cap,
    };
    let shapes = [
        shape(1, 1, 8, None, None),
        shape(4, 2, 64, None, None),
        shape(2, 1, 80, Some(9), None),
        shape(2, 2, 16, Some(1), Some(2.0)),
        shape(3, 1, 36, None, Some(0.5)),
        shape(2, 1, 200, Some(33), None),
    ];
    on_every_machine(|machine| {
        for (list, shape) in batches().iter().flat_map(|list| shapes.map(|shape| (list, shape))) {
            check(&engine, machine, list, shape, (DType::F32, AttentionKernels::Plain));
            check(&engine, machine, list, shape, (DType::Bf16, AttentionKernels::Plain));
            if AttentionKernels::of(Number::Bf16, shape.head_dim) == AttentionKernels::Tensor {
                check(&engine, machine, list, shape, (DType::Bf16, AttentionKernels::Tensor));
            }
        }
    });
}

fn check(
    engine: &Engine,
    machine: &Machine<'_>,
    list: &[Segment],
    shape: AttentionShape,
    (dtype, kernels): (DType, AttentionKernels),
) {
    let tokens: usize = list.iter().map(|segment| segment.len).sum();
    let segments = Segments::new(list.to_vec(), tokens).unwrap();
    let (width, kv) = (shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim);
    let [q, k, v] = [(1, width), (2, kv), (3, kv)].map(|(seed, cols)| {
        let mut x = random(seed, tokens, cols);
        x.as_mut_slice().iter_mut().for_each(|x| *x *= 2.0);
        x.to_dtype(dtype).unwrap()
    });
    let dout = random(4, tokens, width);
    let (mut out, mut lse) = (zeros_of(dtype, tokens, width), Array::zeros(tokens, shape.heads));
    let on_cpu = bso_engine::Qkv { q: &q, k: &k, v: &v };
    engine.attention(on_cpu, &segments, shape, &mut out, &mut lse).unwrap();
    let [mut dq, mut dk, mut dv] = [width, kv, kv].map(|cols| random_of(DType::F32, 5, tokens, cols));
    let forward = AttentionForward { out: &out, lse: &lse, dout: &dout };
    let grads = AttentionGrads { dq: &mut dq, dk: &mut dk, dv: &mut dv };
    engine.attention_backward(on_cpu, forward, &segments, shape, grads).unwrap();

    let same: Vec<operation::Segment> =
        list.iter().map(|s| operation::Segment { start: s.start, len: s.len, context: s.context }).collect();
    let tiles = AttentionTiles::of(&same, kernels).unwrap();
    let lists =
        [&tiles.segments, &tiles.queries, &tiles.keys, &tiles.visitors].map(|list| machine.indices(list));
    let AttentionShape { heads, kv_heads, head_dim, scale, window, cap } = shape;
    let [hq, hk, hv, hdout] = [&q, &k, &v, &dout].map(|array| machine.array(array));
    let qkv = Qkv {
        q: hq.view(),
        k: hk.view(),
        v: hv.view(),
        tiles: lists.each_ref().map(|list| list.view()),
        kernels,
        shape: operation::AttentionShape { heads, kv_heads, head_dim, scale, window, cap },
    };
    let number = if dtype == DType::Bf16 { Number::Bf16 } else { Number::F32 };
    let (found, found_lse) = (machine.room(number, tokens, width), machine.room(Number::F32, tokens, heads));
    operation::attention(machine.on(), qkv, found.view(), found_lse.view()).unwrap();
    let tolerance = if dtype == DType::Bf16 { TOLERANCE_BF16 } else { TOLERANCE };
    let of = |what: &str| format!("{what} of {shape:?} in {dtype:?} ({kernels:?}) over {list:?}");
    assert_close(&of("out"), machine, &found, &out.to_f32_vec(), tolerance);
    assert_close(&of("lse"), machine, &found_lse, lse.as_slice(), tolerance);

    let [fq, fk, fv] = [width, kv, kv].map(|cols| machine.room(Number::F32, tokens, cols));
    let delta = machine.room(Number::F32, tokens, heads);
    // The backward from its own forward.
    let forward = operation::AttentionForward {
        out: found.view(),
        lse: found_lse.view(),
        dout: hdout.view(),
        delta: delta.view(),
    };
    let grads = operation::AttentionGrads { dq: fq.view(), dk: fk.view(), dv: fv.view() };
    operation::attention_backward(machine.on(), qkv, forward, grads).unwrap();
    for (what, got, want) in [("dq", &fq, &dq), ("dk", &fk, &dk), ("dv", &fv, &dv)] {
        // Where a row sees one key alone, all cancels out but the rounding of terms of about 1.
        assert_near(&of(what), machine, got, (want.as_slice(), 1.0), tolerance);
    }
}
