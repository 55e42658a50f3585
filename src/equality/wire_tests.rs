//! Questions and answers that come back as they went, and mutants of them.

use super::*;

fn key() -> Key {
    vec![Value::Integer(-5), Value::text("a"), Value::Blob(vec![1, 2]), Value::Real(0.5), Value::Null]
}

fn asks() -> Vec<Ask> {
    let span = Span { table: "t".into(), definition: 9, seed: [7; 16], after: Some(key()), until: None };
    let wanted = Wanted {
        table: "t".into(),
        definition: 9,
        seed: [7; 16],
        keys: vec![key(), vec![Value::Integer(1)]],
    };
    let from = SeqMap::from([("s-1".to_owned(), 5)]);
    vec![
        Ask::Hello,
        Ask::Tables("x".into()),
        Ask::Range(span.clone()),
        Ask::List(span, vec![0, 255]),
        Ask::Sights(wanted.clone()),
        Ask::Spoken(Spoken {
            table: "t".into(),
            definition: 9,
            from,
            generation: "g".into(),
            rows: vec![(key(), vec![1, 2])],
        }),
        Ask::Publish(wanted, vec![None, Some(u128::MAX)]),
    ]
}

fn answers() -> Vec<Answer> {
    let described = Described { name: "t".into(), definition: "id integer key 1".into(), print: 9, aside: 3 };
    let seen = Seen { sight: Sight { row: Some(1), touched: true, waits: true }, unique: vec![5] };
    vec![
        Answer::Hello(Hello {
            node: 3,
            subject: "s".into(),
            publishes: true,
            knows: vec![1, 2],
            ..Hello::default()
        }),
        Answer::Tables(vec![described], true),
        Answer::Range(Range { stopped: Some(key()), rows: 5, buckets: vec![(3, 4)] }),
        Answer::List(Listing {
            stopped: None,
            rows: vec![Listed { key_print: 1, print: 2, key: key() }],
            left_out: 1,
        }),
        Answer::Sights(Sights {
            positions: SeqMap::from([("s".to_owned(), u64::MAX)]),
            generation: String::new(),
            rows: vec![seen, Seen::default()],
        }),
        Answer::Spoken(vec![true, false]),
        Answer::Published(vec![String::new(), "why".into()]),
        Answer::Changed,
        Answer::Failed("why".into()),
    ]
}

#[test]
fn what_was_asked_and_answered_comes_as_it_went() {
    for ask in asks() {
        assert_eq!(Ask::decode(&ask.encode()), Some(ask));
    }
    for answer in answers() {
        assert_eq!(Answer::decode(&answer.encode()), Some(answer));
    }
}

#[test]
fn mutants_of_questions_and_answers_are_none_or_some_that_are_read_the_same_again() {
    let valid: Vec<Vec<u8>> = asks().iter().map(Ask::encode).collect();
    crate::base::mutants::each("questions about equality", &valid, |mutant| {
        if let Some(ask) = Ask::decode(mutant) {
            assert_eq!(ask.encode(), mutant);
        }
    });
    let valid: Vec<Vec<u8>> = answers().iter().map(Answer::encode).collect();
    crate::base::mutants::each("answers about equality", &valid, |mutant| {
        if let Some(answer) = Answer::decode(mutant) {
            let again = Answer::decode(&answer.encode()).map(|answer| answer.encode());
            assert_eq!(again, Some(answer.encode()));
        }
    });
}

#[test]
fn a_length_that_is_not_there_reserves_nothing() {
    let mut bytes = vec![VERSION, 6];
    bytes.extend(u32::MAX.to_be_bytes());
    assert_eq!(Answer::decode(&bytes), None);
    bytes.extend([0; 100]);
    assert_eq!(Answer::decode(&bytes), None);
    assert_eq!(Ask::decode(&vec![VERSION; ASK_BYTES + 1]), None);
    assert_eq!(Ask::decode(&[VERSION + 1, 0]), None, "another version");
}
