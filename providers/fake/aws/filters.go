package aws

import (
	"encoding/base64"
	"maps"
	"slices"
	"strings"
)

// ec2Request is embedded in every input of EC2.
type ec2Request struct {
	DryRun *bool `query:"DryRun"`
}

func (r ec2Request) dryRun() bool { return r.DryRun != nil && *r.DryRun }

// ec2List is embedded in the inputs of EC2's describe operations.
type ec2List struct {
	ec2Request
	Filters    []filter `query:"Filter"`
	MaxResults *int32   `query:"MaxResults"`
	NextToken  string   `query:"NextToken"`
}

type filter struct {
	Name   string   `query:"Name,required"`
	Values []string `query:"Value"`
}

// maxFilterValues is EC2's limit for one request.
//
// https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/Using_Filtering.html
const maxFilterValues = 200

// fields are the filters a describe operation knows: by name, the values of an
// object that a filter compares. "tag:<key>" and "tag-key" are known everywhere.
type fields[T any] map[string]func(T) []string

// filtered returns the objects that every filter accepts. A filter accepts an
// object when one of its values, in which * and ? stand for anything, matches.
func filtered[T any](a *Account, objects []T, filters []filter, known fields[T], id func(T) string) ([]T, error) {
	values := 0
	for _, f := range filters {
		_, ok := known[f.Name]
		if !ok && !strings.HasPrefix(f.Name, "tag:") && f.Name != "tag-key" {
			return nil, fail(codeInvalidParameter, "The filter '%s' is invalid", f.Name)
		}
		if len(f.Values) == 0 {
			return nil, fail(codeInvalidParameter, "The filter '%s' has no values", f.Name)
		}
		values += len(f.Values)
	}
	if values > maxFilterValues {
		return nil, fail("FilterLimitExceeded", "The maximum number of filter values specified on a single call is %d", maxFilterValues)
	}
	return slices.DeleteFunc(slices.Clone(objects), func(object T) bool {
		return slices.ContainsFunc(filters, func(f filter) bool {
			var have []string
			switch key, isTag := strings.CutPrefix(f.Name, "tag:"); {
			case isTag:
				if v, ok := a.tags[id(object)][key]; ok {
					have = []string{v}
				}
			case f.Name == "tag-key":
				have = slices.Collect(maps.Keys(a.tags[id(object)]))
			default:
				have = known[f.Name](object)
			}
			return !slices.ContainsFunc(f.Values, func(pattern string) bool {
				return slices.ContainsFunc(have, func(v string) bool { return wildcard(pattern, v) })
			})
		})
	}), nil
}

// wildcard matches as EC2's filters do: * is any text, ? any one character, \
// takes the next character literally.
func wildcard(pattern, text string) bool {
	if pattern == "" {
		return text == ""
	}
	switch pattern[0] {
	case '*':
		for i := range len(text) + 1 {
			if wildcard(pattern[1:], text[i:]) {
				return true
			}
		}
		return false
	case '?':
		return text != "" && wildcard(pattern[1:], text[1:])
	case '\\':
		if len(pattern) > 1 {
			pattern = pattern[1:]
		}
	}
	return text != "" && text[0] == pattern[0] && wildcard(pattern[1:], text[1:])
}

// byIDs returns the objects with these ids, or the error of the first id that
// is not there; all objects in the order of their ids when none are asked for.
func byIDs[T any](all map[string]T, ids []string, notFound func(id string) error) ([]T, error) {
	if len(ids) == 0 {
		return sorted(all), nil
	}
	var objects []T
	seen := map[string]bool{}
	for _, id := range ids {
		object, ok := all[id]
		if !ok {
			return nil, notFound(id)
		}
		if !seen[id] {
			objects = append(objects, object)
		}
		seen[id] = true
	}
	return objects, nil
}

// sorted returns the values of m in the order of their keys.
func sorted[T any](m map[string]T) []T {
	objects := make([]T, 0, len(m))
	for _, key := range slices.Sorted(maps.Keys(m)) {
		objects = append(objects, m[key])
	}
	return objects
}

// listed applies the filters and the paging of an EC2 describe operation.
func listed[T any](a *Account, in ec2List, ids []string, objects []T, known fields[T], id func(T) string) ([]T, string, error) {
	if in.MaxResults != nil {
		if *in.MaxResults < 5 || *in.MaxResults > 1000 {
			return nil, "", fail(codeInvalidParameter, "Value ( %d ) for parameter maxResults is invalid. Expecting a value from 5 to 1000.", *in.MaxResults)
		}
		if len(ids) > 0 {
			return nil, "", fail(codeParameterCombination, "The parameter maxResults cannot be used with a list of ids")
		}
	}
	objects, err := filtered(a, objects, in.Filters, known, id)
	if err != nil {
		return nil, "", err
	}
	size := 1000
	if in.MaxResults != nil {
		size = int(*in.MaxResults)
	}
	page, next, ok := paginate(objects, id, size, in.NextToken)
	if !ok {
		return nil, "", fail(codeInvalidParameter, "Unable to parse pagination token")
	}
	return page, next, nil
}

// paginate returns the page of objects, which are sorted by key, that follows a
// token, and the token of the next page: empty at the end. A token that was not
// made here is not ok.
func paginate[T any](objects []T, key func(T) string, size int, token string) (page []T, next string, ok bool) {
	if token != "" {
		decoded, err := base64.RawURLEncoding.DecodeString(token)
		after, isToken := strings.CutPrefix(string(decoded), "after ")
		if err != nil || !isToken {
			return nil, "", false
		}
		objects = slices.DeleteFunc(slices.Clone(objects), func(object T) bool { return key(object) <= after })
	}
	if len(objects) <= size {
		return objects, "", true
	}
	page = objects[:size]
	return page, base64.RawURLEncoding.EncodeToString([]byte("after " + key(page[size-1]))), true
}

// elbPage checks the page size of an ELBv2 describe operation and pages.
func elbPage[T any](objects []T, key func(T) string, size *int32, marker string) ([]T, string, error) {
	n := int32(400)
	if size != nil {
		n = *size
	}
	if n < 1 || n > 400 {
		return nil, "", fail(codeValidation, "PageSize must be between 1 and 400, not %d", n)
	}
	page, next, ok := paginate(objects, key, int(n), marker)
	if !ok {
		return nil, "", fail(codeValidation, "Marker %q is not valid", marker)
	}
	return page, next, nil
}
