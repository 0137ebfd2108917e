use super::*;
use flate2::{Compression, write::GzEncoder};
use std::io::Write;

fn file(name: &str, bytes: &[u8]) -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join(name);
    std::fs::write(&path, bytes).unwrap();
    (dir, path)
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

/// `Ok((row, value of "a"))` or the error's text, per row.
fn rows(path: &Path) -> Vec<Result<(usize, i64), String>> {
    read_rows(path)
        .unwrap()
        .map(|r| r.map(|(o, f)| (o.row, f["a"].as_i64().unwrap())).map_err(|e| e.to_string()))
        .collect()
}

#[test]
fn every_layout_gives_the_same_rows() {
    let expected = vec![Ok((1, 1)), Ok((2, 2))];
    for (name, text) in [
        ("d.jsonl", "{\"a\": 1}\n{\"a\": 2}\n"),
        ("d.jsonl", "\u{feff}{\"a\": 1}\r\n{\"a\": 2}"),
        ("lines.json", "{\"a\": 1}\n{\"a\": 2}\n"),
        ("array.json", "[{\"a\": 1},\n {\"a\": 2}]\n"),
        ("array.jsonl", "[ {\"a\":1} , {\"a\":2, \"b\": \"],[ \\\"{\"} ]"),
        ("object.json", "{\"version\": 3, \"data\": [{\"a\": 1}, {\"a\": 2}]}"),
        ("object.json", "{\n \"data\": [\n {\"a\": 1},\n {\"a\": 2}]\n}\n"),
    ] {
        let (_dir, path) = file(name, text.as_bytes());
        assert_eq!(rows(&path), expected, "{name} {text:?}");
        let (_dir, path) = file("packed.gz", &gzip(text.as_bytes()));
        if name.ends_with(".json") {
            assert_eq!(rows(&path), expected, "{name}.gz");
        }
    }
    let (_dir, path) = file("empty.json", b" [ ] ");
    assert_eq!(rows(&path), vec![]);
}

#[test]
fn a_folder_that_mixes_formats_or_is_too_deep_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("a.jsonl"), "{\"a\": 1}\n").unwrap();
    assert_eq!(rows(dir.path()).len(), 1);
    let refusal = || read_rows(dir.path()).err().unwrap().to_string();
    std::fs::write(dir.path().join("b.parquet"), "PAR1").unwrap();
    assert!(refusal().contains("several formats (JSON, Parquet)"), "{}", refusal());
    std::fs::remove_file(dir.path().join("b.parquet")).unwrap();
    std::fs::create_dir_all(dir.path().join("1/2/3/4/5")).unwrap();
    assert!(refusal().contains("too deep"), "{}", refusal());
}

#[test]
fn what_follows_a_closed_array_is_refused_and_not_lost() {
    for (text, whole) in
        [("[{\"a\": 1}]\n[{\"a\": 2}]\n", 1), ("[{\"a\": 1}]\n{\"a\": 2}\n", 1), ("[]\n[{\"a\": 2}]", 0)]
    {
        let (_dir, path) = file("two.json", text.as_bytes());
        let rows = rows(&path);
        assert_eq!(rows.iter().filter(|r| r.is_ok()).count(), whole, "{text:?}");
        let error = rows.last().unwrap().clone().unwrap_err();
        assert_eq!(rows.len(), whole + 1, "{text:?}");
        assert!(error.contains("two.json") && error.contains("follows the closing ]"), "{error}");
    }
}

#[test]
fn a_row_whose_only_list_is_its_messages_is_a_row() {
    let (_dir, path) = file("one.json", b"{\"messages\": [{\"role\": \"user\", \"content\": \"hi\"}]}");
    let row = read_rows(&path).unwrap().next().unwrap().unwrap();
    assert!(row.1.contains_key("messages"));
}

#[test]
fn blank_lines_keep_the_numbers_of_the_file() {
    for name in ["d.jsonl", "d.json"] {
        let (_dir, path) = file(name, b"\n\n{\"a\": 1}\n\n{\"a\": 2}\n");
        assert_eq!(rows(&path), vec![Ok((3, 1)), Ok((5, 2))], "{name}");
    }
}

#[test]
fn a_broken_line_is_named_and_the_next_is_read() {
    let (_dir, path) =
        file("d.jsonl", b"{\"a\": 1}\n{\"a\": \n{\"a\": 3}\n7\n{\"a\": \"\xff\"}\n{\"a\": NaN}\n");
    let rows = rows(&path);
    assert_eq!((&rows[0], &rows[2]), (&Ok((1, 1)), &Ok((3, 3))));
    let error = |i: usize| rows[i].clone().unwrap_err();
    assert!(
        error(1).contains("d.jsonl:2: invalid JSON at column") && error(1).contains("--skip_bad_rows"),
        "{}",
        error(1)
    );
    assert!(error(3).contains("d.jsonl:4: expected a JSON object, found a number"), "{}", error(3));
    assert!(error(4).contains("d.jsonl:5: invalid UTF-8 at byte 8"), "{}", error(4));
    assert!(error(5).contains("d.jsonl:6: invalid JSON"), "{}", error(5));
}

#[test]
fn a_truncated_gzip_file_is_an_error_behind_its_whole_rows() {
    let text: String = (0..5000).map(|i| format!("{{\"a\": {i}}}\n")).collect();
    let packed = gzip(text.as_bytes());
    let (_dir, path) = file("d.jsonl.gz", &packed[..packed.len() / 2]);
    let rows = rows(&path);
    let error = rows.last().unwrap().clone().unwrap_err();
    assert!(error.contains("d.jsonl.gz") && error.contains("gzip"), "{error}");
    assert_eq!(rows.iter().filter(|r| r.is_err()).count(), 1);
    let mut damaged = packed;
    damaged[40] ^= 0xff;
    let (_dir, path) = file("e.jsonl.gz", &damaged);
    assert!(read_rows(&path).unwrap().any(|r| r.is_err()));
}

#[test]
fn a_huge_line_is_refused_without_being_held() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("huge.jsonl.gz");
    let mut encoder = GzEncoder::new(std::fs::File::create(&path).unwrap(), Compression::fast());
    let piece = vec![b'x'; 1 << 20];
    for _ in 0..(MAX_ROW_BYTES >> 20) + 2 {
        encoder.write_all(&piece).unwrap();
    }
    encoder.write_all(b"\n{\"a\": 2}\n").unwrap();
    encoder.finish().unwrap();
    let rows = rows(&path);
    assert!(rows[0].clone().unwrap_err().contains("huge.jsonl.gz:1: the line is longer than 64 MiB"));
    assert_eq!(rows[1], Ok((2, 2)));
}

#[test]
fn an_unclosed_array_and_deep_nesting_are_errors() {
    let (_dir, path) = file("d.json", b"[{\"a\": 1}, {\"a\": 2}");
    let found = rows(&path);
    assert_eq!(found[0], Ok((1, 1)));
    assert!(found[1].clone().unwrap_err().contains("ends inside its JSON array"), "{found:?}");
    let deep = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
    let (_dir, path) = file("deep.jsonl", format!("{{\"a\": {deep}}}\n").as_bytes());
    assert!(rows(&path)[0].clone().unwrap_err().contains("recursion"));
}

#[test]
fn a_folder_is_read_in_the_order_of_its_names() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir(dir.path().join("b")).unwrap();
    std::fs::write(dir.path().join("b/x.jsonl"), b"{\"a\": 2}\n").unwrap();
    std::fs::write(dir.path().join("a.json"), b"[{\"a\": 1}]").unwrap();
    std::fs::write(dir.path().join("dataset_info.json"), b"{\"a\": 9}").unwrap();
    std::fs::write(dir.path().join("README.md"), b"no rows").unwrap();
    assert_eq!(rows(dir.path()), vec![Ok((1, 1)), Ok((1, 2))]);
    let empty = tempfile::tempdir().unwrap();
    assert!(matches!(read_rows(empty.path()), Err(DataError::NoFiles { .. })));
    assert!(read_rows(Path::new("no/such.jsonl")).err().unwrap().to_string().contains("no/such.jsonl"));
}

#[test]
fn csv_gives_text_and_names_bad_records() {
    let text = "\u{feff}prompt,chosen,n\r\n\"a, \"\"b\"\"\nc\",true,1\r\nx,,2\r\ny,z\r\n\"[{\"\"role\"\": \"\"user\"\"}]\",q,3\r\n";
    for (name, bytes) in [("d.csv", text.as_bytes().to_vec()), ("d.csv.gz", gzip(text.as_bytes()))] {
        let (_dir, path) = file(name, &bytes);
        let rows: Vec<_> = read_rows(&path).unwrap().collect();
        let row = |i: usize| rows[i].as_ref().unwrap().1.clone();
        assert_eq!(
            Value::Object(row(0)),
            serde_json::json!({"prompt": "a, \"b\"\nc", "chosen": "true", "n": "1"})
        );
        assert_eq!(row(1)["chosen"], Value::Null);
        let error = rows[2].as_ref().unwrap_err().to_string();
        assert!(error.contains(":3: the record has 2 cells instead of 3"), "{error}");
        assert!(row(3)["prompt"].is_array());
        assert_eq!(rows.len(), 4);
    }
    let (_dir, path) = file("d.tsv", b"a\ta\n1\t2\n");
    let error = read_rows(&path).unwrap().next().unwrap().unwrap_err().to_string();
    assert!(error.contains("two columns are called \"a\""), "{error}");
}
