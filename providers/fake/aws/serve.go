package aws

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/fairway-lb/fairway/providers/fake"
)

// maxBody is the largest form taken. Real requests of the operations served stay
// far below it.
const maxBody = 1 << 20

// ServeHTTP answers one request of EC2, ELBv2 or STS. A request must be a POST of a
// form with an Authorization header that has a SigV4 credential scope; the
// signature itself is not checked.
func (a *Account) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	started := time.Now()
	form, err := readForm(w, r)
	s := serviceOf(form.Get("Version"), r.Header.Get("Authorization"))
	logged := fake.Call{Time: started, Service: s.name, Operation: form.Get("Action"), Resource: summary(form)}
	a.mu.Lock()
	requestID := a.requestID()
	a.mu.Unlock()

	var admitted call
	var fault fake.Fault
	var result any
	if err == nil {
		admitted, err = a.admit(s, form, r.Header.Get("Authorization"))
	}
	if err == nil {
		logged.Write = admitted.operation.write
		result, fault, err = a.perform(r, admitted)
		logged.Fault = fault.Kind
	}
	defer func() {
		logged.Duration = time.Since(started)
		a.calls.Add(logged)
	}()
	switch fault.Kind {
	case fake.FaultHang:
		<-r.Context().Done()
		panic(http.ErrAbortHandler)
	case fake.FaultLost:
		panic(http.ErrAbortHandler)
	}
	logged.Status, logged.Code = respond(w, s, logged.Operation, requestID, result, err)
}

func readForm(w http.ResponseWriter, r *http.Request) (url.Values, error) {
	if r.Method != http.MethodPost {
		return url.Values{}, failStatus(http.StatusMethodNotAllowed, "InvalidAction", "requests are POSTs of a form, not %s", r.Method)
	}
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxBody))
	if tooLarge, ok := errors.AsType[*http.MaxBytesError](err); ok {
		return url.Values{}, failStatus(http.StatusRequestEntityTooLarge, "RequestEntityTooLarge", "the request is larger than %d bytes", tooLarge.Limit)
	}
	if err != nil {
		return url.Values{}, fail("IncompleteBody", "the request could not be read: %v", err)
	}
	form, err := url.ParseQuery(string(body))
	if err != nil {
		return url.Values{}, fail("MalformedQueryString", "the request is not a form: %v", err)
	}
	return form, nil
}

// call is a request that was admitted: who asks which operation what.
type call struct {
	service   *service
	operation *operation
	form      url.Values
	by        credential
}

// admit checks who asks for what, before anything is looked at.
func (a *Account) admit(s *service, form url.Values, authorization string) (call, error) {
	by, err := parseCredential(s, authorization)
	if err != nil {
		return call{}, a.violation(err)
	}
	if a.isRevoked(by.accessKey) {
		return call{}, s.unknownKey()
	}
	if by.region != a.region || by.service != s.name {
		return call{}, a.violation(failStatus(http.StatusForbidden, "SignatureDoesNotMatch",
			"credential is scoped to %s/%s, this is %s/%s", by.region, by.service, a.region, s.name))
	}
	if form.Get("Version") != s.version {
		return call{}, a.violation(fail("InvalidAction", "%s has no version %q", s.name, form.Get("Version")))
	}
	op, ok := s.operations[form.Get("Action")]
	if !ok {
		return call{}, a.violation(fail("InvalidAction", "the action %q is not valid for %s", form.Get("Action"), s.name))
	}
	return call{service: s, operation: op, form: form, by: by}, nil
}

// perform runs the operation with the delays, throttles and faults that are
// configured. A fault that says there is no answer leaves result and error unset.
func (a *Account) perform(r *http.Request, c call) (any, fake.Fault, error) {
	if err := pause(r, a.timing.latency); err != nil {
		return nil, fake.Fault{}, err
	}
	qualified := c.service.name + ":" + c.operation.name
	fault, planned := a.faults.Next(qualified, summary(c.form))
	if !planned && !a.throttle.Allow(qualified) || fault.Kind == fake.FaultThrottle {
		return nil, fault, c.service.throttled()
	}
	if fault.Kind == fake.FaultError && !fault.AfterEffect {
		return nil, fault, injected(fault)
	}
	if fault.Kind == fake.FaultHang && !fault.AfterEffect {
		return nil, fault, nil
	}
	result, err := a.do(c, fault.Kind == fake.FaultLater)
	if fault.Kind == fake.FaultError {
		return nil, fault, injected(fault)
	}
	return result, fault, err
}

// do checks the request against AWS's own description, then the permissions, and
// runs the operation with the account locked. What a doomed operation begins fails
// in the end.
func (a *Account) do(c call, doomed bool) (any, error) {
	breaches, err := a.model.CheckRequest(c.service.name, c.operation.name, c.form)
	if err != nil {
		return nil, err
	}
	if len(breaches) > 0 {
		return nil, a.violation(c.service.breached(c.operation.name, breaches))
	}
	in := c.operation.input()
	unserved, err := decodeForm(c.form, in)
	if err != nil {
		return nil, a.violation(c.service.badParameter(err))
	}
	if len(unserved) > 0 {
		return nil, a.violation(c.service.unserved(c.operation.name, unserved))
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.agenda.RunDue()
	if err := a.checkPermissions(c, in); err != nil {
		return nil, err
	}
	if dry, ok := in.(interface{ dryRun() bool }); ok && dry.dryRun() {
		return nil, failStatus(http.StatusPreconditionFailed, "DryRunOperation", "the request would have succeeded, but the DryRun flag is set")
	}
	a.doomed = doomed
	result, err := c.operation.run(a, in)
	if err == nil && c.operation.write {
		a.publish()
	}
	return result, err
}

func respond(w http.ResponseWriter, s *service, operation, requestID string, result any, err error) (status int, code string) {
	var body []byte
	status = http.StatusOK
	if err == nil {
		body, err = encodeResult(s, operation, requestID, result)
	}
	if err != nil {
		failure, ok := errors.AsType[*apiError](err)
		if !ok {
			failure = &apiError{Code: "InternalFailure", Message: err.Error(), Status: http.StatusInternalServerError}
		}
		status, code = failure.Status, failure.Code
		body, err = encodeError(s, requestID, failure)
		if err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return http.StatusInternalServerError, code
		}
	}
	w.Header().Set("Content-Type", s.contentType)
	w.Header().Set("X-Amzn-Requestid", requestID)
	w.WriteHeader(status)
	_, _ = io.Copy(w, bytes.NewReader(body))
	return status, code
}

// pause waits for d or until the caller goes away.
func pause(r *http.Request, d time.Duration) error {
	if d <= 0 {
		return nil
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-r.Context().Done():
		return r.Context().Err()
	}
}

func injected(f fake.Fault) error {
	status := f.Status
	if status == 0 {
		status = http.StatusInternalServerError
		if f.Code != "" {
			status = http.StatusBadRequest
		}
	}
	code, message := f.Code, f.Message
	if code == "" {
		code = "InternalFailure"
	}
	if message == "" {
		message = "a fault planned for this call"
	}
	return failStatus(status, code, "%s", message)
}

// credential is what an Authorization header says about who signed for what.
type credential struct {
	accessKey, date, region, service string
}

// parseCredential reads the credential scope of a SigV4 header:
// "AWS4-HMAC-SHA256 Credential=KEY/DATE/REGION/SERVICE/aws4_request, SignedHeaders=…, Signature=…".
//
// https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_sigv-signing-elements.html
func parseCredential(s *service, authorization string) (credential, error) {
	if authorization == "" {
		return credential{}, s.unauthenticated("the request has no Authorization header")
	}
	rest, ok := strings.CutPrefix(authorization, "AWS4-HMAC-SHA256 ")
	if !ok {
		return credential{}, s.unauthenticated("the Authorization header is not AWS4-HMAC-SHA256")
	}
	parts := map[string]string{}
	for part := range strings.SplitSeq(rest, ",") {
		name, value, _ := strings.Cut(strings.TrimSpace(part), "=")
		parts[name] = value
	}
	scope := strings.Split(parts["Credential"], "/")
	if len(scope) != 5 || scope[0] == "" || scope[4] != "aws4_request" || parts["SignedHeaders"] == "" || parts["Signature"] == "" {
		return credential{}, s.unauthenticated("the Authorization header has no complete credential scope, signed headers and signature")
	}
	return credential{accessKey: scope[0], date: scope[1], region: scope[2], service: scope[3]}, nil
}

// summary names what a request is about, for the call log.
func summary(form url.Values) string {
	for _, key := range []string{
		"ListenerArn", "TargetGroupArn", "LoadBalancerArn", "Name", "GroupName", "GroupId", "ResourceArns.member.1",
		"ResourceId.1", "Names.member.1", "LoadBalancerArns.member.1", "TargetGroupArns.member.1", "ListenerArns.member.1",
		"InstanceId.1", "SubnetId.1", "GroupId.1", "SecurityGroupRuleId.1",
	} {
		if v := form.Get(key); v != "" {
			return shortARN(v)
		}
	}
	if name := form.Get("Filter.1.Name"); name != "" {
		return fmt.Sprintf("%s=%s", name, form.Get("Filter.1.Value.1"))
	}
	return ""
}

// shortARN leaves only the resource part of an ARN.
func shortARN(s string) string {
	if parts := strings.SplitN(s, ":", 6); len(parts) == 6 && parts[0] == "arn" {
		return parts[5]
	}
	return s
}
