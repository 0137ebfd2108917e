#!/usr/bin/env python3
"""`bso plan` beside the peak resident memory of `bso train`, for settings of adapters, bases in few bits and bf16: a Markdown table.

Needs Python's standard library alone (Linux). A random Llama takes its vocabulary from TOKENIZER/tokenizer.json:

  bench/plan_peaks.py --bso target/release/bso --tokenizer DIR --pairs FILE [--width 640 --layers 10] [--only dora,nf4-nested]

FILE holds preference pairs that DPO can train on (`prompt, chosen, rejected`, or PKU-SafeRLHF's rows). Only memory is judged, so other
work on the machine does no harm as long as memory is not short.
"""
import argparse, array, json, os, pathlib, random, shutil, struct, subprocess, sys, tempfile

ADAPTER = dict(use_peft='true', lora_r=16, lora_dropout=0.05)
SETTINGS = {
    'all weights, f32': dict(dtype='f32'),
    'all weights, bf16': dict(dtype='bf16'),
    'all weights, bf16, gradient_checkpointing': dict(dtype='bf16', gradient_checkpointing='true'),
    'LoRA, f32': dict(dtype='f32', **ADAPTER),
    'LoRA, bf16': dict(dtype='bf16', **ADAPTER),
    'LoRA with the head, f32': dict(dtype='f32', lora_target_modules="'.*_proj|lm_head'", **ADAPTER),
    'DoRA, f32': dict(dtype='f32', use_dora='true', **ADAPTER),
    'DoRA with the head, bf16': dict(dtype='bf16', use_dora='true', lora_target_modules="'.*_proj|lm_head'", **ADAPTER),
    'DoRA, bf16': dict(dtype='bf16', use_dora='true', **ADAPTER),
    'LoRA beside nf4, bf16': dict(dtype='bf16', load_in_4bit='true', **ADAPTER),
    'LoRA beside nested nf4, f32': dict(dtype='f32', load_in_4bit='true', use_bnb_nested_quant='true', **ADAPTER),
    'LoRA beside nested nf4, bf16': dict(dtype='bf16', load_in_4bit='true', use_bnb_nested_quant='true', **ADAPTER),
    'LoRA beside nf4, f32, gradient_checkpointing': dict(dtype='f32', load_in_4bit='true', gradient_checkpointing='true', **ADAPTER),
    'LoRA beside nf4, bf16, gradient_checkpointing': dict(dtype='bf16', load_in_4bit='true', gradient_checkpointing='true', **ADAPTER),
    'DoRA beside nf4, bf16': dict(dtype='bf16', load_in_4bit='true', use_dora='true', **ADAPTER),
    'reward model with LoRA, f32': dict(dtype='f32', stage='reward', **ADAPTER),
}


def write_model(folder, tokenizer, width, layers):
    folder.mkdir()
    for name in 'tokenizer.json', 'tokenizer_config.json', 'special_tokens_map.json', 'chat_template.jinja':
        if (tokenizer / name).exists():
            shutil.copy(tokenizer / name, folder)
    known = json.loads((tokenizer / 'tokenizer.json').read_text())
    ids = [t['id'] for t in known.get('added_tokens', [])]
    vocabulary = known['model']['vocab']
    ids += vocabulary.values() if isinstance(vocabulary, dict) else range(len(vocabulary))
    vocab, inner, heads = max(ids) + 1, width * 8 // 3 // 64 * 64, width // 64
    config = dict(architectures=['LlamaForCausalLM'], model_type='llama', vocab_size=vocab, hidden_size=width, intermediate_size=inner,
                  num_hidden_layers=layers, num_attention_heads=heads, num_key_value_heads=heads, max_position_embeddings=2048,
                  rms_norm_eps=1e-6, rope_theta=10000.0, tie_word_embeddings=False, hidden_act='silu', dtype='float32')
    (folder / 'config.json').write_text(json.dumps(config))
    shapes = {'model.embed_tokens.weight': [vocab, width], 'model.norm.weight': [width], 'lm_head.weight': [vocab, width]}
    for i in range(layers):
        at = f'model.layers.{i}.'
        shapes |= {f'{at}self_attn.{p}_proj.weight': [width, width] for p in 'qkvo'}
        shapes |= {f'{at}mlp.gate_proj.weight': [inner, width], f'{at}mlp.up_proj.weight': [inner, width], f'{at}mlp.down_proj.weight': [width, inner]}
        shapes |= {f'{at}{n}_layernorm.weight': [width] for n in ('input', 'post_attention')}
    header, end = {}, 0
    for name, shape in shapes.items():
        size = 4 * shape[0] * (shape[1] if len(shape) > 1 else 1)
        header[name] = dict(dtype='F32', shape=shape, data_offsets=[end, end + size])
        end += size
    text = json.dumps(header).encode()
    text += b' ' * (-len(text) % 8)
    draw = random.Random(0)
    block = array.array('f', (draw.gauss(0, 0.02) for _ in range(1 << 19)))
    with open(folder / 'model.safetensors', 'wb') as out:
        out.write(struct.pack('<Q', len(text)) + text)
        for name, shape in shapes.items():
            if len(shape) == 1:
                out.write(array.array('f', [1.0] * shape[0]).tobytes())
                continue
            left = shape[0] * shape[1]
            while left:
                start = draw.randrange(len(block) // 2)
                part = block[start:start + min(left, len(block) // 2)]
                out.write(part.tobytes())
                left -= len(part)
    return end / 4


def peak_mib(command):
    """Largest resident set of the process, MiB."""
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    said = process.stderr.read().decode(errors='replace')
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        sys.exit(f'{" ".join(map(str, command))} failed:\n{said[-2000:]}')
    return usage.ru_maxrss / 1024


def main():
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in '--bso', '--tokenizer', '--pairs':
        arguments.add_argument(name, type=lambda text: pathlib.Path(text).resolve(), required=True)
    for name, default in ('--width', 640), ('--layers', 10), ('--steps', 4), ('--batch', 4), ('--max_length', 192):
        arguments.add_argument(name, type=int, default=default)
    arguments.add_argument('--only', default='', help='parts of the names of settings, with commas between')
    given = arguments.parse_args()
    wanted = [part for part in given.only.split(',') if part]
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        numbers = write_model(folder / 'model', given.tokenizer, given.width, given.layers)
        print(f'A random Llama of {numbers / 1e6:.1f} M parameters, batch {given.batch}, max_length {given.max_length}:\n', flush=True)
        print('| settings | predicted, MiB | measured, MiB | off by |\n|---|---|---|---|', flush=True)
        for i, (name, settings) in enumerate(SETTINGS.items()):
            if wanted and not any(part.lower() in name.lower() for part in wanted):
                continue
            common = dict(model_name_or_path='model', dataset_name=given.pairs, max_steps=given.steps, output_dir=f'run-{i}', max_length=given.max_length,
                          per_device_train_batch_size=given.batch, save_strategy='no', eval_strategy='no', report_to='none')
            if 'stage' not in settings:
                common |= dict(loss_type='dpo')
            config = folder / f'{i}.yaml'
            config.write_text(''.join(f'{key}: {value}\n' for key, value in (common | settings).items()))
            planned = subprocess.run([given.bso, '--quiet', 'plan', config, '--json'], capture_output=True, text=True)
            if planned.returncode not in (0, 1):
                sys.exit(f'{name}: {planned.stderr}')
            predicted = json.loads(planned.stdout)['peak_bytes'] / (1 << 20)
            measured = peak_mib([given.bso, '--quiet', 'train', config])
            print(f'| {name} | {predicted:,.0f} | {measured:,.0f} | {100 * (predicted / measured - 1):+.1f} % |', flush=True)
            shutil.rmtree(folder / f'run-{i}')


if __name__ == '__main__':
    main()
