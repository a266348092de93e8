package aws

import (
	"regexp"
	"slices"
	"strings"
)

// cutID splits "subnet-0123abcd" into its kind and its digits.
func cutID(id string) (kind, digits string, ok bool) {
	at := strings.LastIndexByte(id, '-')
	if at < 0 {
		return id, "", false
	}
	return id[:at], id[at+1:], true
}

// regionCode shortens a region's name as zone ids do: eu-west-1 is euw1.
func regionCode(region string) string {
	parts := strings.Split(region, "-")
	code := parts[0]
	for _, p := range parts[1:] {
		code += p[:1]
	}
	return code
}

var elbNamePattern = regexp.MustCompile(`^[a-zA-Z0-9]([a-zA-Z0-9-]{0,30}[a-zA-Z0-9])?$`)

// checkELBName checks the name of a load balancer or target group: at most 32
// letters, digits and hyphens, no hyphen at either end.
func checkELBName(what, name string) error {
	switch {
	case name == "":
		return fail(codeValidation, "%s name must not be empty", what)
	case len(name) > 32:
		return fail(codeValidation, "%s name '%s' cannot be longer than '32' characters", what, name)
	case !elbNamePattern.MatchString(name):
		return fail(codeValidation, "%s name '%s' must contain only letters, digits and hyphens, and not begin or end with a hyphen", what, name)
	}
	return nil
}

// sameSet says whether two lists without repeated elements hold the same.
func sameSet(a, b []string) bool {
	if len(a) != len(b) {
		return false
	}
	for _, x := range a {
		if !slices.Contains(b, x) {
			return false
		}
	}
	return true
}
