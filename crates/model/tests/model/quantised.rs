//! Adapters beside a base in few bits: everything must be as beside whole weights that hold the same numbers.

use crate::fixture::{
    Expected, FAMILIES, Numbers, directory, engine, gradient_distance, largest_norm, log_probs_and_gradients,
    pack,
};
use bso_durable::Seed;
use bso_model::{AdapterConfig, DType, Decoder, Gradients, Optimiser, OptimiserKind, Quantisation, Targets};

const KINDS: [Quantisation; 3] =
    [Quantisation::Int8, Quantisation::Nf4 { nested: false }, Quantisation::Nf4 { nested: true }];

fn settings(dora: bool) -> AdapterConfig {
    AdapterConfig {
        r: 3,
        alpha: 6.0,
        dropout: 0.0,
        targets: Targets::AllLinear,
        rslora: false,
        dora,
        modules_to_save: Vec::new(),
    }
}

fn quantised(base: &str, kind: Quantisation) -> Decoder {
    Decoder::load_quantised(&directory(base), kind, engine()).unwrap()
}

#[test]
fn in_every_family_steps_are_those_beside_the_numbers_that_the_base_holds() {
    for (base, kind) in FAMILIES.into_iter().flat_map(|base| KINDS.map(|kind| (base, kind))) {
        for (dora, dtype) in
            [(false, DType::F32), (false, DType::Bf16), (true, DType::F32), (true, DType::Bf16)]
        {
            if dora && kind == KINDS[2] {
                continue;
            }
            let mut small = quantised(base, kind);
            small.attach_adapter(&settings(dora), Seed::new(5)).unwrap();
            small.compute_in(dtype, true).unwrap();
            let mut whole = small.dequantised().unwrap();
            assert!(whole.quantisation().is_none() && small.quantisation() == Some(kind));
            let expected = Expected::of(base);
            let (batch, weights) = (pack(&expected.sequences(), true), expected.floats("weights").to_vec());
            for _ in 0..2 {
                let (found, wanted) = (
                    log_probs_and_gradients(&small, &batch, &weights),
                    log_probs_and_gradients(&whole, &batch, &weights),
                );
                for (found, wanted) in found.0.iter().zip(&wanted.0) {
                    assert!(
                        (found / wanted - 1.0).abs() < 1e-6,
                        "{base} {kind:?} {dtype:?}: {found} {wanted}"
                    );
                }
                let largest = largest_norm(wanted.1.iter().map(|(_, g)| g.numbers()));
                for ((name, found), (_, wanted)) in found.1.iter().zip(wanted.1.iter()) {
                    let distance = gradient_distance(&found.numbers(), &wanted.numbers(), largest);
                    assert!(distance < 2e-6, "{base} {kind:?} {dtype:?} {name}: {distance}");
                }
                for (decoder, gradients) in [(&mut small, &found.1), (&mut whole, &wanted.1)] {
                    let mut optimiser = Optimiser::new(OptimiserKind::Sgd, 0.0, decoder).unwrap();
                    optimiser.step(decoder, gradients, 1.0 / largest.max(1.0), 0.5).unwrap();
                }
            }
        }
    }
}

#[test]
fn only_matrices_of_linear_layers_are_rounded() {
    for base in FAMILIES {
        let (whole, rounded) = (crate::fixture::decoder(base), quantised(base, KINDS[1]));
        assert_eq!(whole.parameter_count(), rounded.parameter_count());
        let rounded = rounded.dequantised().unwrap();
        let mut changed = 0;
        for ((name, whole), (_, rounded)) in whole.parameters().zip(rounded.parameters()) {
            let kept = ["embed", "wte", "wpe", "norm", "ln_", "bias", "lm_head"]
                .iter()
                .any(|part| name.contains(part));
            assert_eq!(whole == rounded, kept, "{base}: {name}");
            changed += usize::from(!kept);
        }
        assert!(changed >= 12, "{base}: {changed}");
    }
}

#[test]
fn a_saved_adapter_is_a_plain_one() {
    let base = "llama_untied_biases_sharded";
    let mut decoder = quantised(base, KINDS[1]);
    decoder.attach_adapter(&settings(true), Seed::new(5)).unwrap();
    let dir = tempfile::tempdir().unwrap();
    decoder.save_adapter(dir.path(), &directory(base), DType::F32).unwrap();
    let mut whole = crate::fixture::decoder(base);
    whole.load_adapter(dir.path()).unwrap();
    let adapters = |decoder: &Decoder| -> Vec<_> {
        decoder
            .parameters()
            .filter(|(name, _)| name.contains("lora_"))
            .map(|(_, array)| array.clone())
            .collect()
    };
    assert_eq!(adapters(&whole), adapters(&decoder));
    decoder.load_adapter(dir.path()).unwrap();
    assert_eq!(adapters(&whole), adapters(&decoder));
    Decoder::load(dir.path(), engine()).unwrap();
}

#[test]
fn what_needs_whole_weights_is_refused_by_name() {
    let mut decoder = quantised("llama_tied_gqa", KINDS[0]);
    let dir = tempfile::tempdir().unwrap();
    let go_on = &mut |_: bso_model::NewToken| std::ops::ControlFlow::Continue(());
    let batch = pack(&Expected::of("llama_tied_gqa").sequences(), false);
    let (mut activations, mut gradients) =
        (bso_model::Activations::new(), Gradients::zeros(&decoder).unwrap());
    decoder.forward(&batch, &mut activations).unwrap();
    for error in [
        decoder.save(dir.path(), DType::F32).unwrap_err(),
        decoder.generate(&[vec![5]], &Default::default(), go_on).unwrap_err(),
        decoder.backward(&batch, &mut activations, &[1.0; 4], &mut gradients).unwrap_err(),
    ] {
        assert!(error.to_string().contains("load_in_4bit"), "{error}");
    }
    decoder.attach_adapter(&settings(false), Seed::new(1)).unwrap();
    let error = decoder.merge_adapter().unwrap_err();
    assert!(error.to_string().contains("bso merge") && decoder.adapter().is_some(), "{error}");
    let adapter = directory("adapters").join("lora_names");
    assert!(Decoder::load_quantised(&adapter, KINDS[0], engine()).is_err());
}
