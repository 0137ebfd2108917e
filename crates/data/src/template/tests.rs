use super::*;

fn render(source: &str) -> Result<String, String> {
    let tokens = BTreeMap::from([("bos_token".to_owned(), "<s>".to_owned())]);
    let template = ChatTemplate::new(source, "test", tokens).map_err(|e| e.to_string())?;
    template.render(&[Message::user(" hi "), Message::assistant("yes")], false).map_err(|e| e.to_string())
}

#[test]
fn a_template_that_raises_gives_its_name_and_its_message() {
    let error = render("{{ raise_exception('only \"user\" here') }}").unwrap_err();
    assert!(error.contains("chat template test") && error.contains(r#"only \"user\" here"#), "{error}");
}

#[test]
fn a_template_that_does_not_compile_or_finish_is_an_error() {
    let error = render("{% for m in messages %}").unwrap_err();
    assert!(error.contains("does not compile") && error.contains("line 1"), "{error}");
    let endless = "{% for a in range(9999) %}{% for b in range(9999) %}{% for c in range(9999) %}{% endfor %}{% endfor %}{% endfor %}";
    assert!(render(endless).is_err());
    assert!(render("{{ undefined_thing.attribute }}").is_err());
    assert!(render("{{ undefined_thing + 'x' }}").is_err());
    assert!(render("{{ strftime_now('%Q %') }}").is_err());
}

#[test]
fn dates_are_written_by_the_clock_of_the_machine() {
    let year = render("{{ strftime_now('%Y') }}").unwrap();
    assert!(year.parse::<u32>().unwrap() > 2000);
}
