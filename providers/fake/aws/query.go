package aws

import (
	"fmt"
	"net/url"
	"reflect"
	"slices"
	"strconv"
	"strings"
)

// Requests of both protocols are HTML forms whose keys spell a path: awsQuery
// writes lists as "Tags.member.1.Key", ec2Query as "Tag.1.Key". An input is a
// struct whose fields carry that path in the tag `query:"Tags.member"`; the option
// `required` makes an absent field an error. Fields are strings, *string, *int32,
// *bool, slices of strings or structs, structs, or embedded structs.
//
// https://smithy.io/2.0/aws/protocols/aws-query-protocol.html
// https://smithy.io/2.0/aws/protocols/aws-ec2-query-protocol.html

// decodeForm fills the struct in points at and returns the form keys that no field
// took, sorted. The keys Action and Version are not the input's.
func decodeForm(form url.Values, in any) (unknown []string, err error) {
	d := formDecoder{form: form, used: map[string]bool{"Action": true, "Version": true}}
	if err := d.structure(reflect.ValueOf(in).Elem(), ""); err != nil {
		return nil, err
	}
	for key := range form {
		if !d.used[key] {
			unknown = append(unknown, key)
		}
	}
	slices.Sort(unknown)
	return unknown, nil
}

// missingParameter is the kind of error decodeForm gives for an absent required
// field; each service has its own words for it.
type missingParameter string

func (m missingParameter) Error() string { return "missing parameter " + string(m) }

// malformedParameter is the kind of error decodeForm gives for a value that does
// not parse.
type malformedParameter struct{ key, value, want string }

func (m malformedParameter) Error() string {
	return fmt.Sprintf("parameter %s: %q is not %s", m.key, m.value, m.want)
}

type formDecoder struct {
	form url.Values
	used map[string]bool
}

func (d *formDecoder) structure(v reflect.Value, prefix string) error {
	for i := range v.NumField() {
		field := v.Type().Field(i)
		if field.Anonymous {
			if err := d.structure(v.Field(i), prefix); err != nil {
				return err
			}
			continue
		}
		name, option, _ := strings.Cut(field.Tag.Get("query"), ",")
		found, err := d.value(v.Field(i), prefix+name)
		if err != nil {
			return err
		}
		if !found && option == "required" {
			return missingParameter(prefix + strings.TrimSuffix(name, ".member"))
		}
	}
	return nil
}

// value decodes what stands at key into v and says whether anything stood there.
func (d *formDecoder) value(v reflect.Value, key string) (bool, error) {
	switch {
	case v.Kind() == reflect.Slice:
		return d.list(v, key)
	case v.Kind() == reflect.Struct:
		if !d.under(key) {
			return false, nil
		}
		return true, d.structure(v, key+".")
	case v.Kind() == reflect.Pointer && v.Type().Elem().Kind() == reflect.Struct:
		if !d.under(key) {
			return false, nil
		}
		v.Set(reflect.New(v.Type().Elem()))
		return true, d.structure(v.Elem(), key+".")
	}
	values, ok := d.form[key]
	if !ok {
		return false, nil
	}
	d.used[key] = true
	if len(values) != 1 {
		return false, malformedParameter{key, strings.Join(values, ","), "given once"}
	}
	return true, scalar(v, key, values[0])
}

func scalar(v reflect.Value, key, text string) error {
	if v.Kind() == reflect.Pointer {
		v.Set(reflect.New(v.Type().Elem()))
		v = v.Elem()
	}
	switch v.Kind() {
	case reflect.String:
		v.SetString(text)
	case reflect.Int32:
		n, err := strconv.ParseInt(text, 10, 32)
		if err != nil {
			return malformedParameter{key, text, "an integer"}
		}
		v.SetInt(n)
	case reflect.Bool:
		if text != "true" && text != "false" {
			return malformedParameter{key, text, "true or false"}
		}
		v.SetBool(text == "true")
	default:
		panic(fmt.Sprintf("input field for %s has type %s", key, v.Type()))
	}
	return nil
}

// list decodes the elements key.1, key.2, … in the order of their numbers. An empty
// list is spelled as the list's own name without a value.
func (d *formDecoder) list(v reflect.Value, key string) (bool, error) {
	if bare := strings.TrimSuffix(key, ".member"); len(d.form[bare]) == 1 && d.form.Get(bare) == "" {
		d.used[bare] = true
		v.Set(reflect.MakeSlice(v.Type(), 0, 0))
		return true, nil
	}
	numbers := d.numbers(key)
	for _, n := range numbers {
		element := reflect.New(v.Type().Elem()).Elem()
		if _, err := d.value(element, key+"."+strconv.Itoa(n)); err != nil {
			return true, err
		}
		v.Set(reflect.Append(v, element))
	}
	return len(numbers) > 0, nil
}

func (d *formDecoder) numbers(key string) []int {
	var numbers []int
	for k := range d.form {
		rest, ok := strings.CutPrefix(k, key+".")
		if !ok {
			continue
		}
		digits, _, _ := strings.Cut(rest, ".")
		n, err := strconv.Atoi(digits)
		if err == nil && n > 0 && strconv.Itoa(n) == digits {
			numbers = append(numbers, n)
		}
	}
	slices.Sort(numbers)
	return slices.Compact(numbers)
}

func (d *formDecoder) under(key string) bool {
	for k := range d.form {
		if strings.HasPrefix(k, key+".") {
			return true
		}
	}
	return false
}
