from django.urls import path

from gallery import views

urlpatterns = [
    path("", views.index, name="index"),
    path("uploads/<int:pk>/", views.show, name="upload"),
    path("uploads/<int:pk>/progress", views.progress, name="progress"),
]
