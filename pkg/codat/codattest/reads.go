package codattest

import (
	"cmp"
	"net/http"
	"time"

	"github.com/google/uuid"

	"github.com/headgate/headgate/pkg/codat"
)

// readTime is how long a read takes.
const readTime = 2 * time.Second

// A pull is a read of one data type over one connection.
type pull struct {
	id, company, connection string
	dataType                codat.DataType
	requested, completed    time.Time // completed is zero while the read runs
}

func (p *pull) json() map[string]any {
	status, progress := codat.DatasetFetching, 10
	if !p.completed.IsZero() {
		status, progress = codat.DatasetComplete, 100
	}
	body := map[string]any{
		"id": p.id, "companyId": p.company, "connectionId": p.connection, "dataType": p.dataType, "status": status,
		"statusDescription": "", "errorMessage": nil, "requested": date(p.requested), "completed": nil,
		"progress": progress, "isCompleted": !p.completed.IsZero(), "isErrored": false,
	}
	if !p.completed.IsZero() {
		body["completed"] = date(p.completed)
	}
	return body
}

func (s *Server) refreshAll(r request) reply {
	s.mu.Lock()
	defer s.mu.Unlock()
	company := s.companies[r.PathValue("company")]
	for _, connection := range company.Connections {
		s.read(company, codat.DataBills, connection)
		s.read(company, codat.DataInvoices, connection)
	}
	return reply{status: http.StatusNoContent}
}

func (s *Server) refresh(r request) reply {
	s.mu.Lock()
	defer s.mu.Unlock()
	company := s.companies[r.PathValue("company")]
	only := r.URL.Query().Get("connectionId")
	var first *pull
	for _, connection := range company.Connections {
		if only != "" && only != connection {
			continue
		}
		if p := s.read(company, codat.DataType(r.PathValue("dataType")), connection); first == nil {
			first = p
		}
	}
	if first == nil {
		return refuse(http.StatusNotFound, "no such connection")
	}
	return reply{status: http.StatusOK, body: first.json()}
}

// read begins a read, which ends well. The caller holds the mutex.
func (s *Server) read(company *Company, dataType codat.DataType, connection string) *pull {
	p := &pull{id: uuid.NewString(), company: company.ID, connection: connection, dataType: dataType, requested: s.time.Now()}
	s.pulls = append(s.pulls, p)
	s.time.after(readTime, func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		p.completed = s.time.Now()
		s.emit("read.completed", company, map[string]any{
			"referenceCompany": company.reference(), "modifiedFromDate": nil,
			"dataTypes": []any{map[string]any{"connectionId": connection, "dataType": dataType, "recordsModified": true, "status": codat.DatasetComplete, "issues": []any{}}},
		})
	})
	return p
}

func (s *Server) dataHistory(r request) reply {
	s.mu.Lock()
	var results []map[string]any
	for _, p := range s.pulls {
		if p.company == r.PathValue("company") {
			results = append(results, p.json())
		}
	}
	s.mu.Unlock()
	return page(r, results)
}

func (s *Server) dataStatus(r request) reply {
	s.mu.Lock()
	defer s.mu.Unlock()
	body := map[string]any{"balanceSheet": nil} // never read
	for _, p := range s.pulls {
		if p.company != r.PathValue("company") {
			continue
		}
		status, _ := body[string(p.dataType)].(map[string]any)
		if status == nil {
			status = map[string]any{"dataType": p.dataType, "lastSuccessfulSync": nil, "latestSuccessfulSyncId": nil}
			body[string(p.dataType)] = status
		}
		status["currentStatus"], status["latestSyncId"] = p.json()["status"], p.id
		if !p.completed.IsZero() {
			status["lastSuccessfulSync"], status["latestSuccessfulSyncId"] = date(p.completed), p.id
		}
	}
	return reply{status: http.StatusOK, body: body}
}

func (s *Server) listConnections(r request) reply {
	s.mu.Lock()
	var results []map[string]any
	company := s.companies[r.PathValue("company")]
	if company == nil { // since the call began
		s.mu.Unlock()
		return refuse(http.StatusNotFound, "no such company")
	}
	for _, id := range company.Connections {
		results = append(results, map[string]any{
			"id": id, "integrationId": "bf083d72-62c7-493e-aec9-81b4dbba7e2c", "integrationKey": "gbol", "sourceId": "8a156a5a-39cb-4f9b-856e-76ef9b9a9607",
			"sourceType": codat.SourceAccounting, "platformName": "Sandbox", "linkUrl": s.URL() + "/link", "status": cmp.Or(s.statuses[company.ID+"\x00"+id], codat.Linked),
			"lastSync": nil, "created": "2026-01-05T09:00:00Z", "dataConnectionErrors": []any{},
		})
	}
	s.mu.Unlock()
	return page(r, results)
}

func (s *Server) getOptions(r request) reply {
	if !codat.DataType(r.PathValue("dataType")).Writable(codat.WriteCreate) {
		return refuse(http.StatusNotFound, "this data type cannot be written")
	}
	text := map[string]any{"type": "String", "displayName": "Note", "description": "", "required": false, "properties": nil, "options": nil, "validation": nil}
	return reply{status: http.StatusOK, body: map[string]any{
		"type": "Object", "displayName": r.PathValue("dataType"), "description": "", "required": true,
		"properties": map[string]any{"note": text}, "options": nil, "validation": nil,
	}}
}
