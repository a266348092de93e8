package aws

import (
	"bytes"
	"encoding/xml"
	"fmt"
	"net/http"
)

// members is a list as awsQuery spells it in answers, items as ec2Query does. An
// empty one is an empty element, as the real services answer.
type members[T any] struct {
	Member []T `xml:"member"`
}

type items[T any] struct {
	Item []T `xml:"item"`
}

// ec2Reply is embedded first in every answer of EC2, whose request id stands
// beside the result's own fields.
type ec2Reply struct {
	RequestID string `xml:"requestId"`
}

func (r *ec2Reply) setRequestID(id string) { r.RequestID = id }

// encodeResult spells a result in the protocol of its service.
func encodeResult(s *service, operation, requestID string, result any) ([]byte, error) {
	name := xml.StartElement{
		Name: xml.Name{Local: operation + "Response"},
		Attr: []xml.Attr{{Name: xml.Name{Local: "xmlns"}, Value: s.namespace}},
	}
	var b bytes.Buffer
	b.WriteString(xml.Header)
	e := xml.NewEncoder(&b)
	e.Indent("", "  ")
	if s.protocol == ec2Query {
		reply, ok := result.(interface{ setRequestID(string) })
		if !ok {
			return nil, fmt.Errorf("result %T of %s carries no request id", result, operation)
		}
		reply.setRequestID(requestID)
		err := e.EncodeElement(result, name)
		return b.Bytes(), err
	}
	envelope := queryEnvelope{operation: operation, result: result, RequestID: requestID}
	err := e.EncodeElement(envelope, name)
	return b.Bytes(), err
}

type queryEnvelope struct {
	operation string
	result    any
	RequestID string
}

// MarshalXML puts the result under an element named after the operation and the
// request id into ResponseMetadata.
func (q queryEnvelope) MarshalXML(e *xml.Encoder, start xml.StartElement) error {
	if err := e.EncodeToken(start); err != nil {
		return err
	}
	result := xml.StartElement{Name: xml.Name{Local: q.operation + "Result"}}
	if err := e.EncodeElement(q.result, result); err != nil {
		return err
	}
	metadata := struct {
		RequestID string `xml:"RequestId"`
	}{q.RequestID}
	if err := e.EncodeElement(metadata, xml.StartElement{Name: xml.Name{Local: "ResponseMetadata"}}); err != nil {
		return err
	}
	return e.EncodeToken(start.End())
}

// encodeError spells an error in the protocol of its service.
func encodeError(s *service, requestID string, failure *apiError) ([]byte, error) {
	type wireError struct {
		Type    string `xml:"Type,omitempty"`
		Code    string `xml:"Code"`
		Message string `xml:"Message"`
	}
	wire := wireError{Code: failure.Code, Message: failure.Message}
	var doc any
	if s.protocol == ec2Query {
		doc = struct {
			XMLName   xml.Name    `xml:"Response"`
			Errors    []wireError `xml:"Errors>Error"`
			RequestID string      `xml:"RequestID"`
		}{Errors: []wireError{wire}, RequestID: requestID}
	} else {
		wire.Type = "Sender"
		if failure.Status >= http.StatusInternalServerError {
			wire.Type = "Receiver"
		}
		doc = struct {
			XMLName   xml.Name
			Error     wireError
			RequestID string `xml:"RequestId"`
		}{XMLName: xml.Name{Space: s.namespace, Local: "ErrorResponse"}, Error: wire, RequestID: requestID}
	}
	body, err := xml.MarshalIndent(doc, "", "  ")
	return append([]byte(xml.Header), body...), err
}
